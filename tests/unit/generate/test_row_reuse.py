"""Reruns after an edit of the constitution: few model calls, and the bytes of a fresh run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from interruptions import Killed, no_progress

from cai.errors import StoreError
from cai.lm.fake import FakeLM
from cai.modeling import memory
from cai.pipeline import context
from cai.pipeline.config import load_run
from cai.pipeline.context import RunContext, open_run
from cai.pipeline.runner import run_stages
from cai.records import Chat, Pair, Preference, Prompt, Revision
from cai.store import append_rows, read_rows

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


def reply(chat: Chat, seed: int) -> str:
    """A text that depends on the seed and the last turn, and so on the principle's wording."""
    return f"Reply {seed % 97} {sum(map(ord, chat[-1].content)) % 97}."


def write(folder: Path, edit: Edit | None = None) -> None:
    principles = {name: dict(values) for name, values in PRINCIPLES.items()}
    if edit:
        edit(principles)
    lines = [
        f"  - {{id: {name}, category: c, weight: {p['weight']}, "
        f"critique: Criticise {p['text']}., revision: Revise {p['text']}., "
        f"compare: Compare {p['text']}.}}"
        for name, p in principles.items()
    ]
    (folder / "toy.yaml").write_text(
        "name: toy\nversion: 0.0.1\nprinciples:\n" + "\n".join(lines) + RUBRIC, encoding="utf-8"
    )


def open_context(folder: Path, run: Path, messages: list[str]) -> RunContext:
    (folder / "run.yaml").write_text(
        "name: toy\nmodel: fake:echo\nconstitution: toy.yaml\nprompts: [prompts.jsonl]\n"
        f"held_out: 0.2\nfolder: {run}\n"
        "revise: {rounds: 2, stop_when_kept: false}\nlabel: {principles: 2}\n",
        encoding="utf-8",
    )
    prompts = [
        json.dumps({"prompt": f"question {i}", "kind": ("disallowed", "benign")[i % 2]})
        for i in range(COUNT)
    ]
    (folder / "prompts.jsonl").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    return open_run(load_run(folder / "run.yaml", []), no_progress, notify=messages.append)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeLM:
    """The model of all runs in this file; it records its calls.

    No weights are loaded, so the garbage collection after each stage, most of the time, is skipped.
    """
    monkeypatch.setattr(memory, "release_memory", lambda: None)
    lm = FakeLM(reply, lambda chat, choices: [0.1 * (len(chat[-1].content) % 7), 0.0])
    monkeypatch.setattr(context, "open_lm", lambda spec, http: lm)
    return lm


def run_to_labels(folder: Path, run: str, messages: list[str] | None = None) -> None:
    """Prompts, revisions, pairs that need no training, labels."""
    ctx = open_context(folder, folder / run, [] if messages is None else messages)
    run_stages(ctx, ["prompts", "revise"], lambda stage, seconds: None)
    pairs = folder / run / "30-pairs.jsonl"
    if not pairs.exists():
        prompts = read_rows(folder / run / "00-prompts.jsonl", Prompt)
        append_rows(
            pairs,
            [Pair(source=p.id, chat=p.chat, first="Yes.", second=f"No {p.id}.") for p in prompts],
        )
    run_stages(ctx, ["label"], lambda stage, seconds: None)


def drew(folder: Path, *names: str) -> tuple[int, int]:
    """(revisions, labels) that drew one of the principles."""
    revisions = [
        row
        for row in read_rows(folder / "10-revisions.jsonl", Revision)
        if any(entry.principle in names for entry in row.rounds)
    ]
    labels = [
        row
        for row in read_rows(folder / "40-preferences.jsonl", Preference)
        if any(vote.principle in names for vote in row.votes)
    ]
    return len(revisions), len(labels)


def text(principles: dict[str, dict[str, object]]) -> None:
    principles["two"]["text"] = "something else"


def weight(principles: dict[str, dict[str, object]]) -> None:
    principles["two"]["weight"] = 3.0


def removed(principles: dict[str, dict[str, object]]) -> None:
    del principles["three"]


def added(principles: dict[str, dict[str, object]]) -> None:
    principles["five"] = {"weight": 1.0, "text": "about five"}


NAMES = ("10-revisions.jsonl", "40-preferences.jsonl")


def test_an_edited_text_costs_the_calls_of_its_rows(tmp_path: Path, fake: FakeLM) -> None:
    """A revision takes 5 calls (reply, two rounds of two), a label 4 (two principles, twice)."""
    write(tmp_path)
    run_to_labels(tmp_path, "run")
    revisions, labels = drew(tmp_path / "run", "two")
    assert 0 < revisions < 16
    assert 0 < labels < 32
    old = {row.id: row for row in read_rows(tmp_path / "run" / NAMES[0], Revision)}
    fake.calls.clear()
    write(tmp_path, text)
    messages: list[str] = []
    run_to_labels(tmp_path, "run", messages)
    assert len(fake.calls) == 5 * revisions + 4 * labels
    kept = len(old) - revisions
    counts = f"{kept} rows kept, {revisions} to make anew"
    assert messages[0] == f"revise: principles were edited (two): {counts}"
    stale = list(read_rows(tmp_path / "run" / "10-revisions.stale.jsonl", Revision))
    assert {row.id for row in stale} <= old.keys()
    assert len(stale) == revisions
    fake.calls.clear()
    run_to_labels(tmp_path, "run", messages)
    assert fake.calls == []
    assert sum("principles were edited" in message for message in messages) == 2


@pytest.mark.parametrize("edit", [text, weight, removed, added])
def test_it_ends_as_a_fresh_run(tmp_path: Path, fake: FakeLM, edit: Edit) -> None:
    """Wording, weight, one less, one more: the bytes of a fresh run, for fewer calls."""
    write(tmp_path)
    run_to_labels(tmp_path, "run")
    write(tmp_path, edit)
    fake.calls.clear()
    run_to_labels(tmp_path, "fresh")
    fresh_calls = len(fake.calls)
    fake.calls.clear()
    run_to_labels(tmp_path, "run")
    assert 0 < len(fake.calls) < fresh_calls
    for name in NAMES:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    assert not list((tmp_path / "run").glob("*.kept.jsonl"))


@pytest.mark.parametrize("after", [0, 9])
def test_cut_off_in_the_middle(tmp_path: Path, fake: FakeLM, after: int) -> None:
    """Stopped during the rerun, edited once more and resumed: the bytes of a fresh run."""
    write(tmp_path)
    run_to_labels(tmp_path, "run")
    write(tmp_path, text)
    fake.calls.clear()

    def stopping(chat: Chat, seed: int) -> str:
        if len(fake.calls) > after:
            raise Killed
        return reply(chat, seed)

    fake.reply = stopping
    with pytest.raises(Killed):
        run_to_labels(tmp_path, "run")
    fake.reply = reply
    for edit, run in ((text, "fresh"), (weight, "again")):
        write(tmp_path, edit)
        run_to_labels(tmp_path, "run")
        run_to_labels(tmp_path, run)
        for name in NAMES:
            assert (tmp_path / "run" / name).read_bytes() == (tmp_path / run / name).read_bytes()


def test_other_differences_are_still_refused(tmp_path: Path, fake: FakeLM) -> None:
    """Another rubric decides about all rows, so none is reused, and the user decides."""
    write(tmp_path)
    run_to_labels(tmp_path, "run")
    path = tmp_path / "toy.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("fine: 1.0", "fine: 2.0"), encoding="utf-8"
    )
    with pytest.raises(StoreError, match="made with another rubric"):
        run_to_labels(tmp_path, "run")
