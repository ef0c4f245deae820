"""Sweeps: the grid, what its runs share, and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_runner import run_command

from cai.cli import sweep as sweep_command
from cai.errors import ConfigError
from cai.pipeline.sweep import first_decided_stage, grid, share_artefacts
from cai.records import Score
from cai.report.sweep import policy_scores, sweep_chart, sweep_page


def test_all_combinations_the_last_key_fastest() -> None:
    variants = grid(["ppo.kl.coef=[0.01, 0.05]", "sft.epochs=[1, 2]"])
    assert [variant.name for variant in variants] == [
        "ppo.kl.coef=0.01,sft.epochs=1",
        "ppo.kl.coef=0.01,sft.epochs=2",
        "ppo.kl.coef=0.05,sft.epochs=1",
        "ppo.kl.coef=0.05,sft.epochs=2",
    ]
    assert variants[2].settings == ["ppo.kl.coef=0.05", "sft.epochs=1"]


def test_a_folder_name_is_a_name() -> None:
    (variant,) = grid(["model=[local:/a b/../c]"])
    assert variant.name == "model=local_a_b_.._c"
    assert variant.settings == ['model="local:/a b/../c"']


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["ppo.kl.coef=0.1"], "ppo.kl.coef: expected a list of values"),
        (["ppo.kl.coef"], "ppo.kl.coef: expected a list"),
        (["ppo.kl.coef=[]"], "expected a list"),
        (["seed=[1]", "seed=[2]"], "seed: given twice"),
        (["seed=[1, 1]"], "one folder"),
        ([f"seed={list(range(9))}", f"ppo.num_updates={list(range(9))}"], "81 runs"),
        (["seed=[1"], "not YAML"),
    ],
)
def test_mistakes(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grid(settings)


@pytest.mark.parametrize(
    ("keys", "stage"),
    [
        (["ppo.kl.coef"], "ppo"),
        (["eval.draws"], "eval"),
        (["ppo.kl.coef", "sft.epochs"], "sft"),
        (["held_out"], "prompts"),
        (["seed"], "prompts"),
    ],
)
def test_the_first_stage_that_differs(keys: list[str], stage: str) -> None:
    assert first_decided_stage(keys) == stage


def test_earlier_artefacts_are_shared_and_later_ones_are_not(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    for name in ("00-prompts", "01-held-out", "10-revisions", "30-pairs"):
        (source / name).with_suffix(".jsonl").parent.mkdir(exist_ok=True)
        (source / f"{name}.jsonl").write_text(name)
    (source / "20-sft").mkdir()
    (source / "20-sft" / "weights").write_text("sft")
    for name in ("00-prompts", "10-revisions", "20-sft", "30-pairs"):
        (source / f"{name}.manifest.json").write_text("{}")
    target.mkdir()
    (target / "10-revisions.jsonl").write_text("kept")
    share_artefacts(source, target, "pair")
    names = {path.name for path in target.iterdir()}
    assert names == {
        "00-prompts.jsonl",
        "00-prompts.manifest.json",
        "01-held-out.jsonl",
        "10-revisions.jsonl",
        "10-revisions.manifest.json",
        "20-sft",
        "20-sft.manifest.json",
    }
    assert (target / "10-revisions.jsonl").read_text() == "kept"
    assert (target / "20-sft" / "weights").read_text() == "sft"


def score(metric: str, mean: float | None, subject: str = "policy") -> Score:
    interval = {"stderr": 0.1, "ci_low": 0.1, "ci_high": 0.4}
    return Score.model_validate(
        {"metric": metric, "subject": subject, "mean": mean, "n": 8, "unscored": 0} | interval
    )


HARM = "refusal.incorrect_rate.disallowed"


def test_the_page_holds_names_as_text_and_a_gap_for_the_unknown() -> None:
    runs = {
        "<b>": policy_scores([score(HARM, 0.25), score(HARM, 0.9, "base"), score("other", 1.0)]),
        "two": policy_scores([score(HARM, None)]),
    }
    assert list(runs["<b>"]) == [HARM]
    page = sweep_page("<i>", runs)
    assert "<b>" not in page
    assert "<i>" not in page
    assert "25 % [10, 40] n=8" in page
    assert sweep_chart(runs) == sweep_chart(runs)


def test_the_command_runs_each_and_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in for the stages leaves scores, and notes its settings."""
    calls: list[list[str]] = []
    shared: list[tuple[str, str, str]] = []

    def execute(file: Path, stages: Any, settings: list[str], limits: Any) -> None:
        calls.append(settings)
        folder = tmp_path / "kl" / settings[-2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "70-scores.jsonl").write_text(score(HARM, 0.25).line() + "\n")

    def share(source: Path, target: Path, stage: str) -> None:
        shared.append((source.name, target.name, stage))

    monkeypatch.setattr(sweep_command, "execute_run", execute)
    monkeypatch.setattr("cai.pipeline.sweep.share_artefacts", share)
    result = run_command(
        capsys, "sweep", "run.yaml", "ppo.kl.coef=[0.01, 0.05]", "--output", tmp_path / "kl",
        "--set", "seed=3",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert [call[:2] for call in calls] == [
        ["seed=3", "ppo.kl.coef=0.01"],
        ["seed=3", "ppo.kl.coef=0.05"],
    ]
    assert shared == [("ppo.kl.coef=0.01", "ppo.kl.coef=0.05", "ppo")]
    assert "25 % [10, 40] n=8" in result.out
    page = tmp_path / "kl" / "sweep.html"
    assert page.exists()
    again = run_command(
        capsys, "sweep", "run.yaml", "ppo.kl.coef=[0.01, 0.05]", "--output", tmp_path / "kl"
    )
    assert again.code == 0, again.err
    page.write_text("mine")
    count = len(calls)
    refused = run_command(
        capsys, "sweep", "run.yaml", "ppo.kl.coef=[0.01, 0.05]", "--output", tmp_path / "kl"
    )
    assert "was changed since cai sweep wrote it" in refused.usage_error
    assert (page.read_text(), len(calls)) == ("mine", count)


def test_a_users_page_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before the first run, which may take hours."""
    page = tmp_path / "sweep.html"
    page.write_text("mine")
    result = run_command(capsys, "sweep", "none.yaml", "seed=[1, 2]", "--output", tmp_path)
    assert "exists and was not written by cai sweep" in result.usage_error
    assert page.read_text() == "mine"
