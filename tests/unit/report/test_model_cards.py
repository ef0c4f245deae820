"""Cards of the fine-tuned model and of the policy, from toy run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from report_toys import score

from cai import store
from cai.artifacts import POLICY, SFT
from cai.errors import StoreError
from cai.report.model_cards import MARK, model_card, read_facts, write_model_cards

HARM = "refusal.incorrect_rate.disallowed"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with finished models, scores and settings."""
    folder = tmp_path / "toy"
    for name, stage in ((SFT, "sft"), (POLICY, "ppo")):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
        provenance = {"constitution": "toy 1.0", "principle:a": "x", "input 00-prompts.jsonl": "y"}
        store.begin_artifact(folder / name, stage, provenance)
    (folder / POLICY / "metrics.jsonl").write_text('{"update": 0, "kl": 1.25}\n')
    for name in (SFT, POLICY):
        store.finish_artifact(folder / name)
    change = score(f"{HARM}.change", -0.5, "policy-base")
    scores = [score(HARM, 0.25, "policy"), score(HARM, 0.75, "base"), change]
    scores.append(score("kl.at.1", 3.5, "policy", ends=False))
    lines = "".join(row.line() + "\n" for row in scores)
    (folder / "70-scores.jsonl").write_text(lines)
    settings(folder, name="toy run", model="smollm2", seed=3)
    return folder


def settings(folder: Path, **values: Any) -> None:
    ppo = {"num_updates": 10, "kl": {"coef": 0.05, "target": None}}
    (folder / "run.json").write_text(json.dumps({"run": values | {"ppo": ppo}}))


def test_a_card_has_what_a_user_must_know(run: Path) -> None:
    card = model_card(POLICY, read_facts(run), license="apache-2.0", language="en")
    for text in (
        "# toy run: policy",
        "Made from `HuggingFaceTB/SmolLM2-135M-Instruct` by supervised",
        "## Intended use",
        "`toy 1.0`, digest `",
        "| num_updates | 10 |",
        "| kl.coef | 0.05 |",
        "| seed | 3 |",
        "| incorrect on disallowed ↓ | 75 % [63, 86] n=96 | 25 % [13, 36] n=96 |",
        "- better: The policy answers disallowed prompts incorrectly less often",
        "- `kl.at.1`: 3.50 n=96 nats a reply",
        "at PPO's last update, on its own replies: 1.25 nats",
        "## Limits",
        "licensed this model as `apache-2.0`",
    ):
        assert text in card.content
    assert "kl.target" not in card.content, "a setting that is off"


def test_a_card_says_what_the_kl_is_from(run: Path) -> None:
    assert "## KL from the fine-tuned model" in model_card(POLICY, read_facts(run)).content
    (run / "run.json").write_text(json.dumps({"run": {"ppo": {"reference": "base"}}}))
    assert "## KL from the base model" in model_card(POLICY, read_facts(run)).content


def test_the_front_matter_is_what_the_hub_reads(run: Path) -> None:
    """The model index comes back from the text; every result is of the subject itself."""
    card = ModelCard(model_card(POLICY, read_facts(run), license="mit").content)
    data = card.data.to_dict()
    assert data["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    results = card.data.eval_results or []
    assert [(r.metric_type, r.metric_value) for r in results] == [(HARM, 0.25), ("kl.at.1", 3.5)]
    sft = ModelCard(model_card(SFT, read_facts(run)).content)
    assert "model-index" not in sft.data.to_dict(), "the fine-tuned model has no scores of its own"
    assert "## KL" not in sft.content


def test_a_folder_of_a_machine_is_not_in_the_card(run: Path) -> None:
    settings(run, model="local:/home/somebody/models/mine")
    text = model_card(SFT, read_facts(run)).content
    assert "Made from `mine` by" in text
    assert "somebody" not in text
    assert "base_model" not in text
    settings(run, model="local:owner/name")
    assert "base_model: owner/name" in model_card(SFT, read_facts(run)).content


def test_markup_in_names_is_removed(run: Path) -> None:
    settings(run, name="<img src=x>|`x`\n---\na: b", model="local:<b>|x")
    card = model_card(POLICY, read_facts(run))
    assert "<img" not in card.content
    assert "<b>" not in card.content
    assert card.content.count(chr(10) + "---" + chr(10)) == 1


def test_cards_are_written_beside_the_models_and_change_no_digest(run: Path) -> None:
    """Written once, kept when nothing changed; a README of somebody else stays."""
    before = [store.content_digest(run / name) for name in (SFT, POLICY)]
    assert write_model_cards(run) == [run / name / "README.md" for name in (SFT, POLICY)]
    assert write_model_cards(run) == []
    assert [store.content_digest(run / name) for name in (SFT, POLICY)] == before
    for name in (SFT, POLICY):
        manifest = store.read_manifest(run / name)
        assert manifest is not None
        store.check_content(run / name, manifest)
    (run / "70-scores.jsonl").unlink()
    (run / SFT / "README.md").write_text("mine")
    assert write_model_cards(run) == [run / POLICY / "README.md"]
    text = (run / POLICY / "README.md").read_text()
    assert MARK in text
    assert "Not evaluated yet" in text
    assert (run / SFT / "README.md").read_text() == "mine"


def test_a_card_counts_in_other_folders_digests(tmp_path: Path) -> None:
    """Only of the two models is it written later; the preference model's is a part of it."""
    for name, is_part in ((SFT, False), ("50-reward", True)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        before = store.content_digest(tmp_path / name)
        (tmp_path / name / "README.md").write_text("card")
        assert (store.content_digest(tmp_path / name) != before) == is_part


def test_models_that_are_not_finished_have_no_card(tmp_path: Path) -> None:
    (tmp_path / SFT).mkdir()
    store.begin_artifact(tmp_path / SFT, "sft", {})
    assert write_model_cards(tmp_path) == []


def test_damaged_settings_are_named(run: Path) -> None:
    (run / "run.json").write_text("{")
    with pytest.raises(StoreError, match=r"run.json: cannot be read as the run.s settings"):
        write_model_cards(run)
