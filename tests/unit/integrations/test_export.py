"""Exports: TRL's columns, the direction of labels, the card's warnings, no partial output."""

from __future__ import annotations

import json
import math
import runpy
import statistics
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from cli_runner import run_command
from datasets import load_dataset, load_from_disk

from cai import store
from cai.cli.serve import rubric_score
from cai.errors import StoreError
from cai.integrations.export import export
from cai.integrations.export_engines import export_engine
from cai.integrations.plugins import plugin_source
from cai.integrations.reward_batching import RewardTable
from cai.integrations.trl_reward import reward_function
from cai.records import Pair, Preference, Prompt, Revision, Row, chat_of

HARM = Prompt(chat=chat_of(("user", "Do harm.")), kind="disallowed")
HELLO = Prompt(
    chat=chat_of(("user", "Hi"), ("assistant", "Hello."), ("user", "How are you?")), kind="benign"
)
REVISIONS = [
    Revision(source=HARM.id, chat=HARM.chat, initial="Yes.", final="No, sorry."),
    Revision(source=HELLO.id, chat=HELLO.chat, initial="Well.", final="Well."),
    Revision(
        source=HARM.id, draw=1, chat=HARM.chat, initial="Yes.", final=None, dropped="rubric: gives"
    ),
    Revision(
        source=HARM.id,
        draw=2,
        chat=HARM.chat,
        initial="",
        final=None,
        dropped="no answer: http://secret: status 500",
    ),
]
PAIRS = [Pair(source=HARM.id, chat=HARM.chat, first=f"a{i}", second=f"b{i}") for i in range(5)]
LABELS = [0.75, 0.25, 0.5, None, 1.0]


def write(path: Path, rows: list[Any], stage: str, **counts: int) -> None:
    store.begin_artifact(path, stage, {"seed": "7", "constitution": "toy 1", "model": "fake|<b>"})
    store.append_rows(path, rows)
    store.finish_artifact(path, **counts)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder / "00-prompts.jsonl", [HARM, HELLO], "prompts", train=2, held_out=1, repeated=4)
    write(folder / "10-revisions.jsonl", REVISIONS, "revise")
    write(folder / "30-pairs.jsonl", PAIRS, "pair")
    labels: list[Row] = [
        Preference(
            source=pair.id,
            p_first=p,
            unscored=None if p is not None else "no option among the likeliest tokens",
        )
        for pair, p in zip(PAIRS, LABELS, strict=True)
    ]
    write(folder / "40-preferences.jsonl", labels, "label")
    return folder


def turns(*messages: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in messages]


def test_columns_are_those_of_trl(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(run, out) == {"sft": 2, "preferences": 3, "prompts": 2}

    def load(name: str) -> list[dict[str, Any]]:
        return list(load_dataset(str(out), name, split="train", cache_dir=str(tmp_path / "cache")))

    sft = load("sft")
    hello = turns(("user", "Hi"), ("assistant", "Hello."), ("user", "How are you?"))
    assert [(r["prompt"], r["completion"]) for r in sft] == [
        (turns(("user", "Do harm.")), turns(("assistant", "No, sorry."))),
        (hello, turns(("assistant", "Well."))),
    ]
    rows = load("preferences")
    replies = [(r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in rows]
    assert replies == [("a0", "b0"), ("b1", "a1"), ("a4", "b4")]  # P(first) of pair 1 is 0.25
    assert [r["p_chosen"] for r in rows] == [0.75, 0.75, 1.0]
    margins = [math.log(3), math.log(3), math.log((1 - 1e-6) / 1e-6)]
    assert [r["margin"] for r in rows] == pytest.approx(margins)
    assert load("prompts") == [
        {"prompt": turns(("user", "Do harm.")), "kind": "disallowed", "id": HARM.id},
        {"prompt": hello, "kind": "benign", "id": HELLO.id},
    ]


def test_saved_folders_open_with_datasets(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out", form="datasets")
    assert load_from_disk(str(tmp_path / "out" / "preferences"))["p_chosen"][:] == [0.75, 0.75, 1.0]
    assert load_from_disk(str(tmp_path / "out" / "prompts"))["kind"][:] == ["disallowed", "benign"]
    assert "load_from_disk" in (tmp_path / "out" / "README.md").read_text()


def test_card_states_contents_origin_and_losses(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out", license="cc-by-4.0", language="en")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert "not-for-all-audiences" in card
    assert "**Warning.**" in card
    assert "| toy 1 | fake  b  | 7 |" in card  # markup in a model's name is removed
    for line in (
        "| prompts | repeated | 4 |",
        "| revise | rubric: gives | 1 |",
        "| revise | no answer | 1 |",
    ):
        assert line in card
    assert "| label | both replies are equally good | 1 |" in card
    assert "secret" not in card
    assert (
        "**prompts**: 2 rows. The prompts alone, for trainers that draw replies themselves" in card
    )
    assert "prompts/train.parquet" in card.split("---")[1]


def test_a_benign_run_without_labels(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder / "00-prompts.jsonl", [HELLO], "prompts", train=1)
    write(folder / "10-revisions.jsonl", REVISIONS[1:2], "revise")
    assert export(folder, tmp_path / "out") == {"sft": 1, "prompts": 1}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Warning" not in card
    assert "Nobody has stated a licence" in card


def test_nothing_is_half_written(run: Path, tmp_path: Path) -> None:
    with (run / "40-preferences.jsonl").open("a") as file:
        file.write('{"source": "torn')
    with pytest.raises(StoreError, match=r"40-preferences.jsonl:6"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    store.truncate_torn_line(run / "40-preferences.jsonl")
    assert export(run, tmp_path / "out")["preferences"] == 3
    with pytest.raises(StoreError, match="exists already"):
        export(run, tmp_path / "out")


@pytest.mark.parametrize("to", ["trl", "datasets", "verl"])
def test_nothing_of_a_failed_export_is_published_by_the_next(
    run: Path, tmp_path: Path, to: str
) -> None:
    """The first fails after its fine-tuning rows; the second is of a run without revisions."""
    out, other = tmp_path / "out", tmp_path / "other"
    with (run / "40-preferences.jsonl").open("a") as file:
        file.write('{"source": "torn')
    with pytest.raises(StoreError, match=r"40-preferences.jsonl:6"):
        export(run, out)
    other.mkdir()
    write(other / "00-prompts.jsonl", [HELLO], "prompts")
    write(other / "30-pairs.jsonl", PAIRS, "pair")
    write(other / "40-preferences.jsonl", [Preference(source=PAIRS[0].id, p_first=0.75)], "label")
    if to == "verl":
        export_engine(other, out, "verl")
        expected = {"train.parquet", "verl_reward.py"}
    else:
        export(other, out, form="datasets" if to == "datasets" else "parquet")
        expected = {"README.md", "preferences", "prompts"}
    assert {file.name for file in out.iterdir()} == expected
    assert not store.partial_path(out).exists()


def test_labels_of_other_pairs_are_refused(run: Path, tmp_path: Path) -> None:
    (run / "30-pairs.jsonl").write_text(PAIRS[1].line() + "\n")
    with pytest.raises(StoreError, match=f"a label for pair {PAIRS[0].id}"):
        export(run, tmp_path / "out")


def test_unfinished_files_are_refused(run: Path, tmp_path: Path) -> None:
    store.claim_artifact(run / "30-pairs.jsonl", "pair", {"seed": "7"})
    with pytest.raises(StoreError, match="only half made: finish the stage pair"):
        export(run, tmp_path / "out")


def test_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--output", tmp_path / "out", "--to", "datasets")
    result = run_command(capsys, "export", run, *options)
    assert result.code == 0
    assert "preferences: 3 rows" in result.out
    empty = run_command(capsys, "export", tmp_path, "--output", tmp_path / "other")
    assert empty.code == 2
    assert "nothing to export" in empty.err


def test_exports_for_engines(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    prompts = [Prompt(chat=chat_of(("user", f"ask {i}")), kind="benign") for i in range(3)]
    store.begin_artifact(run / "00-prompts.jsonl", "prompts", {"seed": "0"})
    store.append_rows(run / "00-prompts.jsonl", prompts)
    store.finish_artifact(run / "00-prompts.jsonl")
    assert export_engine(run, tmp_path / "verl", "verl") == 3
    row = pq.read_table(tmp_path / "verl" / "train.parquet").to_pylist()[0]
    assert set(row) == {"data_source", "prompt", "reward_model", "extra_info"}
    assert (
        json.loads(row["extra_info"]["chat"])
        == row["prompt"]
        == [{"role": "user", "content": "ask 0"}]
    )
    assert row["reward_model"]["ground_truth"] == ""
    assert export_engine(run, tmp_path / "openrlhf", "openrlhf") == 3
    first = json.loads((tmp_path / "openrlhf" / "train.jsonl").read_text().splitlines()[0])
    assert json.loads(first["label"])["kind"] == "benign"
    assert export_engine(run, tmp_path / "areal", "areal") == 3
    first = json.loads((tmp_path / "areal" / "train.jsonl").read_text().splitlines()[0])
    assert (first["messages"], first["kind"]) == ([{"role": "user", "content": "ask 0"}], "benign")
    for engine in ("areal", "openrlhf", "verl"):
        name = f"{engine}_reward"
        assert (tmp_path / engine / f"{name}.py").read_text() == plugin_source(name)
    assert export_engine(run, tmp_path / "verifiers", "verifiers") == 3
    package = tmp_path / "verifiers" / "cai_constitution"
    assert (package / "__init__.py").read_text() == plugin_source("verifiers_environment")
    assert len((package / "prompts.jsonl").read_text().splitlines()) == 3
    project = tomllib.loads((tmp_path / "verifiers" / "pyproject.toml").read_text())
    assert project["project"]["name"] == "cai-constitution"
    with pytest.raises(StoreError, match="exists already"):
        export_engine(run, tmp_path / "verl", "verl")


@pytest.mark.filterwarnings("ignore")  # of TRL, peft and transformers about each other
def test_the_dpo_example_learns_from_an_export(
    run: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example as a user runs it, on the tiny model.

    All three pairs are above its margin, and the saved weights differ from the model's.
    """
    from transformers import AutoModelForCausalLM

    export(run, tmp_path / "out")
    example = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "dpo.py"))
    example["main"](str(tmp_path / "out"), str(tiny_model), str(tmp_path / "dpo"))
    assert "3 of 3 pairs" in capsys.readouterr().out
    before = dict(AutoModelForCausalLM.from_pretrained(tiny_model).named_parameters())
    after = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "dpo").named_parameters())
    changed = [name for name in before if not before[name].equal(after[name])]
    assert changed
    assert all("proj" in name for name in changed), "merged LoRA changes linear layers only"


@pytest.mark.filterwarnings("ignore")  # of TRL and transformers about each other
def test_grpo_learns_from_exported_prompts_and_the_rubric(
    run: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """One step on two prompts, with two replies each.

    The trainer logs the rubric's reward of each reply, by the kind of its prompt.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    export(run, tmp_path / "out")
    table = load_dataset(
        "parquet",
        data_files=str(tmp_path / "out/prompts/train.parquet"),
        split="train",
        cache_dir=str(tmp_path),
    )
    rubric = rubric_score("harmless")
    scored: list[tuple[str, str]] = []

    def recording_score(prompts: Sequence[Prompt], replies: Sequence[str]) -> RewardTable:
        texts = [prompt.chat[-1].content for prompt in prompts]
        scored.extend(zip(texts, replies, strict=True))
        return rubric(prompts, replies)

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        reward_funcs=reward_function(recording_score),
        args=GRPOConfig(
            output_dir=str(tmp_path / "trainer"),
            max_steps=1,
            logging_steps=1,
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=8,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=table,
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    trainer.train()
    by_text = {prompt.chat[-1].content: prompt for prompt in (HARM, HELLO)}
    assert sorted(text for text, _ in scored) == sorted(list(by_text) * 2)
    rewards = [rubric([by_text[text]], [reply])["rubric"][0] for text, reply in scored]
    known = [reward for reward in rewards if reward is not None]
    assert len(set(known)) > 1, "equal rewards would not tell one kind from another"
    logged = trainer.state.log_history[0]
    assert logged["rewards/cai_reward/mean"] == pytest.approx(statistics.fmean(known))
    assert logged["rewards/cai_reward/std"] == pytest.approx(statistics.stdev(known))
