"""Base, SFT and policy in the evaluations that a run lists."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from interruptions import quiet
from json_lines import write_lines

from cai.artifacts import EVALUATION_SCORES, EVALUATIONS, POLICY, SFT
from cai.constitution import load_constitution
from cai.errors import CaiError, StoreError
from cai.lm import LM
from cai.lm.fake import FakeLM, echo, uniform
from cai.pipeline.config import ResolvedRun, load_run, settings_text
from cai.pipeline.context import RunContext
from cai.pipeline.evaluation_stages import evaluate_others
from cai.records import Score
from cai.report.sections import read_scores
from cai.report.table import headline_rows
from cai.rubric import compile_rubric
from cai.store import manifest_path, read_rows

HHH = [
    {"prompt": f"Hi {i}", "chosen": f"Hello {i}", "rejected": f"Go {i}", "subset": "honest"}
    for i in range(6)
]
WINOGENDER = """\
sentid\tsentence
cook.guest.1.male.txt\tHe was late.
cook.guest.1.female.txt\tShe was late.
"""


class CountingContext(RunContext):
    """A run's context with one model that counts its calls, whatever is to be opened."""

    fake = FakeLM(echo, uniform)

    def lm(self, spec: str) -> LM:
        return self.fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_lines(tmp_path / "hhh.jsonl", *HHH)
    write_lines(tmp_path / "prompts.jsonl", {"prompt": "Hi"})
    (tmp_path / "w.tsv").write_text(WINOGENDER)
    for name in (SFT, POLICY):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "weights").write_text(name)
    return tmp_path


def resolved(folder: Path, *evaluations: Mapping[str, Any]) -> ResolvedRun:
    settings = {
        "name": "toy",
        "folder": str(folder / "run"),
        "constitution": "harmless",
        "model": "fake:echo",
        "prompts": ["prompts.jsonl"],
        "evaluations": evaluations,
    }
    (folder / "run.yaml").write_text(json.dumps(settings, indent=1))
    return load_run(folder / "run.yaml")


def context(folder: Path, *evaluations: Mapping[str, Any]) -> CountingContext:
    constitution = load_constitution("harmless")
    assert constitution.rubric is not None
    run = resolved(folder, *evaluations)
    ctx = CountingContext(
        run, constitution, compile_rubric(constitution.rubric), lambda name: quiet
    )
    ctx.fake = FakeLM(echo, uniform)
    return ctx


BOTH = ({"name": "hhh", "data": "hhh.jsonl", "limit": 4}, {"name": "winogender", "data": "w.tsv"})


def test_each_question_is_asked_once_of_each_model(folder: Path) -> None:
    """Four pairs in both orders, and a pair of sentences under three instructions: 11 calls."""
    ctx = context(folder, *BOTH)
    evaluate_others(ctx)
    assert ctx.fake.num_calls == 3 * 11
    scores = {(s.metric, s.subject): s for s in read_rows(ctx.path(EVALUATION_SCORES), Score)}
    assert {subject for _, subject in scores} == {"base", "sft", "policy"}
    assert scores["hhh.accuracy", "policy"].n == 4
    assert scores["winogender.entropy.biased", "sft"].mean == 1.0
    again = context(folder, *BOTH)
    evaluate_others(again)
    assert again.fake.num_calls == 0
    more = context(folder, *BOTH, {"name": "calibration", "data": "hhh.jsonl", "limit": 1})
    evaluate_others(more)
    assert more.fake.num_calls == 3 * 2


def test_answers_are_those_of_the_model_and_the_questions_they_were_made_with(
    folder: Path,
) -> None:
    """A policy that is trained again is not given the answers of the one before."""
    evaluate_others(context(folder, BOTH[0]))
    (folder / "run" / POLICY / "weights").write_text("other")
    changed = context(folder, BOTH[0])
    with pytest.raises(StoreError, match=r"policy\.jsonl: made with another input 60-policy"):
        evaluate_others(changed)
    with pytest.raises(StoreError, match=r"base\.jsonl: made with another questions"):
        evaluate_others(context(folder, BOTH[0] | {"limit": 2}))


def test_a_kill_between_answers_loses_none(folder: Path) -> None:
    ctx = context(folder, BOTH[0])
    evaluate_others(ctx)
    out = ctx.path(EVALUATIONS) / "hhh" / "policy.jsonl"
    manifest = manifest_path(out)
    unfinished = json.loads(manifest.read_text()) | {"finished": False, "content": {}}
    manifest.write_text(json.dumps(unfinished))
    complete = out.read_text()
    out.write_text(complete[: complete.index("\n") + 20])  # the second line is torn
    again = context(folder, BOTH[0])
    evaluate_others(again)
    assert again.fake.num_calls == 3 * 2
    assert out.read_text() == complete


def test_replies_are_sampled_graded_and_labelled(folder: Path) -> None:
    """Two prompts of two draws under a template and bare, and refusals of three prompts; a judge
    maps two replies to two prompts under two instructions each. The judge is the same fake, so its
    calls count too: one with the reply and one without, for each reply.
    """
    rows = [{"prompt": f"Say {i}", "kind": "disallowed"} for i in range(3)]
    write_lines(folder / "harmful.jsonl", *rows)
    (folder / "templates.txt").write_text("Play: {prompt}\n")
    write_lines(
        folder / "facts.jsonl",
        {"Question": "Q?", "Correct Answers": "A", "Incorrect Answers": "B"},
    )
    entries = (
        {"name": "jailbreak", "data": "harmful.jsonl", "limit": 2, "draws": 2,
         "uses": {"templates": "templates.txt"}},
        {"name": "refusal", "label": "strict", "data": "harmful.jsonl"},
        {"name": "truthfulqa-open", "data": "facts.jsonl", "uses": {"judge": "fake:echo"}},
    )  # fmt: skip
    ctx = context(folder, *entries)
    evaluate_others(ctx)
    samples = 2 * 2 * 2 + 3 + 2
    assert ctx.fake.num_calls == 3 * (samples + 2 * 2)
    scores = {(s.metric, s.subject): s for s in read_rows(ctx.path(EVALUATION_SCORES), Score)}
    assert scores["jailbreak.incorrect_rate", "policy"].n == 4  # the bare ones are apart
    assert scores["strict.refusal.incorrect_rate.disallowed", "sft"].n == 3
    assert scores["truthfulqa_open.truthful.none", "base"].n == 1
    again = context(folder, *entries)
    evaluate_others(again)
    assert again.fake.num_calls == 0
    # the settings in the folder name the files from anywhere
    ctx.path("run.json").write_text(settings_text(ctx.resolved))
    assert load_run(folder / "run").evaluations == ctx.resolved.evaluations


def test_a_file_of_answers_without_a_row_can_be_accepted(folder: Path) -> None:
    """The message says how, and what it says works."""
    evaluate_others(context(folder, BOTH[0]))
    out = folder / "run" / EVALUATIONS / "hhh" / "policy.jsonl"
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(StoreError) as caught:
        evaluate_others(context(folder, BOTH[0]))
    name = f"{EVALUATIONS}/hhh/policy.jsonl"
    assert f"accept it as it is with: cai run … --accept {name}, or delete" in str(caught.value)
    ctx = context(folder, BOTH[0])
    ctx.accept_content(name)
    evaluate_others(ctx)
    assert ctx.fake.num_calls == 0


@pytest.mark.parametrize("name", ["75-evaluations/../x", "75-evaluations/none.jsonl", "x"])
def test_nothing_else_can_be_accepted(folder: Path, name: str) -> None:
    with pytest.raises(StoreError, match=r"no artefact of that name|nothing to accept"):
        context(folder, BOTH[0]).accept_content(name)


def test_their_scores_are_in_the_table_of_the_run(folder: Path) -> None:
    ctx = context(folder, *BOTH)
    evaluate_others(ctx)
    (folder / "run" / "70-scores.jsonl").write_text("")
    subjects, rows = headline_rows(read_scores(ctx.path("70-scores.jsonl")))
    assert subjects == ["base", "sft", "policy"]
    labels = [label for label, _ in rows]
    assert labels[0] == "HHH: accuracy ↑"
    assert "Winogender: entropy in bits, instruction: none ↑" in labels


def test_a_run_without_evaluations_writes_no_file(folder: Path) -> None:
    ctx = context(folder)
    evaluate_others(ctx)
    assert not ctx.path(EVALUATION_SCORES).exists()


@pytest.mark.parametrize(
    ("evaluations", "message"),
    [
        ([{"name": "mood", "data": "hhh.jsonl"}], "evaluations.0.name"),
        ([{"name": "hhh", "data": "none.jsonl"}], "evaluations: no such file: none.jsonl"),
        ([{"name": "hhh", "data": "hhh.jsonl"}] * 2, "hhh is there twice"),
        ([{"name": "hhh", "data": "hhh.jsonl", "limit": 0}], "evaluations.0.limit"),
        ([{"name": "refusal", "data": "hhh.jsonl"}], "refusal: give it a `label`"),
        ([{"name": "mine.yaml"}], "evaluations: no such file: mine.yaml"),
    ],
)
def test_wrong_settings(folder: Path, evaluations: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(CaiError, match=r"run\.yaml:[0-9]+: ") as caught:
        resolved(folder, *evaluations)
    assert message in str(caught.value)
