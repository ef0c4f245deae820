"""After an edit of a constitution, a rerun asks the model only about rows that drew the edited part, and ends as a fresh run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cai.errors import StoreError
from cai.lm.fake import FakeLM
from cai.pipeline import context
from cai.pipeline.config import load_run
from cai.pipeline.context import RunContext, open_run
from cai.pipeline.runner import run_stages
from cai.records import Chat, Pair, Preference, Prompt, Revision
from cai.store import append, read

PRINCIPLES = {
    name: {"weight": 1.0, "text": f"about {name}"} for name in ("one", "two", "three", "four")
}
RUBRIC = """
rubric:
  behaviours: {disallowed: answer, benign: answer, sensitive: answer}
  propositions: {empty: {question: No word in it}}
  classes:
    answer:
      - {name: fine, when: not empty, style: safe_answer, correct: true}
      - {name: blank, when: empty, style: undesired_refusal, correct: false}
  degrees: {full_refusal: empty, full_compliance: not empty}
  weights: {answer: {fine: 1.0}}
"""
COUNT = 24
Edit = Callable[[dict[str, dict[str, object]]], None]


class Stop(BaseException):
    """Stands for a signal."""


def said(chat: Chat, seed: int) -> str:
    """Depends on everything that it was asked, and so on the principle's wording."""
    return f"Reply {seed % 97} {sum(map(ord, chat[-1].content)) % 97}."


def write(folder: Path, edit: Edit | None = None) -> None:
    principles = {name: dict(values) for name, values in PRINCIPLES.items()}
    if edit:
        edit(principles)
    lines = [
        f"  - {{id: {name}, category: c, weight: {p['weight']}, critique: Criticise {p['text']}., revision: Revise {p['text']}., "
        f"compare: Compare {p['text']}.}}"
        for name, p in principles.items()
    ]
    (folder / "toy.yaml").write_text(
        "name: toy\nversion: 0.0.1\nprinciples:\n" + "\n".join(lines) + RUBRIC, encoding="utf-8"
    )


def ctx(folder: Path, run: Path, told: list[str]) -> RunContext:
    (folder / "run.yaml").write_text(
        f"name: toy\nmodel: fake:echo\nconstitution: toy.yaml\nprompts: [prompts.jsonl]\nheld_out: 0.2\nfolder: {run}\n"
        "revise: {rounds: 2, stop_when_kept: false}\nlabel: {principles: 2}\n",
        encoding="utf-8",
    )
    prompts = [
        json.dumps({"prompt": f"question {i}", "kind": ("disallowed", "benign")[i % 2]})
        for i in range(COUNT)
    ]
    (folder / "prompts.jsonl").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    return open_run(
        load_run(folder / "run.yaml", []), lambda stage: lambda done, total: None, say=told.append
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeLM:
    """The model of every run here; it counts its calls."""
    lm = FakeLM(said, lambda chat, choices: [0.1 * (len(chat[-1].content) % 7), 0.0])
    monkeypatch.setattr(context, "open_lm", lambda spec, http: lm)
    return lm


def go(folder: Path, run: str, told: list[str] | None = None) -> None:
    """Prompts, revisions, pairs that need no training, labels."""
    it = ctx(folder, folder / run, [] if told is None else told)
    run_stages(it, ["prompts", "revise"], lambda stage, seconds: None)
    pairs = folder / run / "30-pairs.jsonl"
    if not pairs.exists():
        prompts = read(folder / run / "00-prompts.jsonl", Prompt)
        append(
            pairs,
            [Pair(source=p.id, chat=p.chat, first="Yes.", second=f"No {p.id}.") for p in prompts],
        )
    run_stages(it, ["label"], lambda stage, seconds: None)


def drew(folder: Path, *names: str) -> tuple[int, int]:
    """(revisions, labels) that drew one of the principles."""
    revisions = [
        {made.principle for made in row.rounds}
        for row in read(folder / "10-revisions.jsonl", Revision)
    ]
    labels = [
        {vote.principle for vote in row.votes}
        for row in read(folder / "40-preferences.jsonl", Preference)
    ]
    return sum(bool(row & set(names)) for row in revisions), sum(
        bool(row & set(names)) for row in labels
    )


def text(principles: dict[str, dict[str, object]]) -> None:
    principles["two"]["text"] = "something else"


def weight(principles: dict[str, dict[str, object]]) -> None:
    principles["two"]["weight"] = 3.0


def removed(principles: dict[str, dict[str, object]]) -> None:
    del principles["three"]


def added(principles: dict[str, dict[str, object]]) -> None:
    principles["five"] = {"weight": 1.0, "text": "about five"}


NAMES = ("10-revisions.jsonl", "40-preferences.jsonl")


def test_an_edited_text_costs_the_calls_of_its_own_rows(tmp_path: Path, fake: FakeLM) -> None:
    """A revision takes 5 calls (reply, two rounds of two), a label 4 (two principles, both orders)."""
    write(tmp_path)
    go(tmp_path, "run")
    revisions, labels = drew(tmp_path / "run", "two")
    assert 0 < revisions < 16
    assert 0 < labels < 32
    old = {row.id: row for row in read(tmp_path / "run" / NAMES[0], Revision)}
    fake.calls.clear()
    write(tmp_path, text)
    told: list[str] = []
    go(tmp_path, "run", told)
    assert len(fake.calls) == 5 * revisions + 4 * labels
    kept = len(old) - revisions
    assert (
        told[0]
        == f"revise: principles were edited (two): {kept} rows kept, {revisions} to make anew"
    )
    stale = list(read(tmp_path / "run" / "10-revisions.stale.jsonl", Revision))
    assert {row.id for row in stale} <= old.keys()
    assert len(stale) == revisions
    fake.calls.clear()
    go(tmp_path, "run", told)
    assert (fake.calls, len(told)) == ([], 2)


@pytest.mark.parametrize("edit", [text, weight, removed, added])
def test_it_ends_as_a_fresh_run(tmp_path: Path, fake: FakeLM, edit: Edit) -> None:
    """Wording, weight, one less, one more: the same bytes as from nothing, for fewer calls."""
    write(tmp_path)
    go(tmp_path, "run")
    write(tmp_path, edit)
    fake.calls.clear()
    go(tmp_path, "fresh")
    whole = len(fake.calls)
    fake.calls.clear()
    go(tmp_path, "run")
    assert 0 < len(fake.calls) < whole
    for name in NAMES:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    assert not list((tmp_path / "run").glob("*.kept.jsonl"))


@pytest.mark.parametrize("after", [0, 9])
def test_cut_off_in_the_middle(tmp_path: Path, fake: FakeLM, after: int) -> None:
    """Stopped after some calls of the second making, edited once more, and gone on with: still as a fresh run."""
    write(tmp_path)
    go(tmp_path, "run")
    write(tmp_path, text)
    fake.calls.clear()

    def dying(chat: Chat, seed: int) -> str:
        if len(fake.calls) > after:
            raise Stop
        return said(chat, seed)

    fake.reply = dying
    with pytest.raises(Stop):
        go(tmp_path, "run")
    fake.reply = said
    for edit, run in ((text, "fresh"), (weight, "again")):
        write(tmp_path, edit)
        go(tmp_path, "run")
        go(tmp_path, run)
        for name in NAMES:
            assert (tmp_path / "run" / name).read_bytes() == (tmp_path / run / name).read_bytes()


def test_other_differences_are_still_refused(tmp_path: Path, fake: FakeLM) -> None:
    """Another rubric decides what is kept of every row: no row stands, and the user decides."""
    write(tmp_path)
    go(tmp_path, "run")
    path = tmp_path / "toy.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("fine: 1.0", "fine: 2.0"), encoding="utf-8"
    )
    with pytest.raises(StoreError, match="made with another rubric"):
        go(tmp_path, "run")
