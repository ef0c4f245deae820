"""Texts about principles: addresses, selection, coverage, and what the rows hold."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Capture, run_command
from json_lines import write_lines

from cai.constitution.diff import diff, digests
from cai.constitution.load import load_constitution
from cai.constitution.schema import Principle
from cai.data.demonstrations import demonstrations
from cai.data.text_files import text_blocks
from cai.generate.synthesis import (
    SynthesisConfig,
    SynthesisRequest,
    TextSelection,
    adviser_chat,
    document_chat,
    next_requests,
    select_texts,
    synthesizer,
)
from cai.lm.base import Sample
from cai.records import Chat, SyntheticText

PRINCIPLE = Principle(
    id="kind", category="tone", compare="Prefer the kind reply.", why="Harsh words help nobody."
)
WORDS = (
    "an old friend of mine was told that a rule is only as good as the reason that stands behind "
    "it and so every rule deserves one"
)


def text_row(number: int, text: str | None, **fields: Any) -> SyntheticText:
    return SyntheticText(
        source=f"kind/{number}", principle="kind", form="article", text=text, **fields
    )


def test_selection_in_order() -> None:
    """Of seven texts two are wanted: the others are no answer, empty, short, alike or too many."""
    other = " ".join(f"word{i}" for i in range(30))
    third = " ".join(f"term{i}" for i in range(30))
    rows = [
        text_row(0, None, unanswered="no answer: status 500"),
        text_row(1, None),
        text_row(2, "Too short."),
        text_row(3, WORDS),
        text_row(4, WORDS + " too"),
        text_row(5, other),
        text_row(6, third),
    ]
    taken = select_texts(rows, SynthesisConfig(per_principle=2))
    assert [text.source for text in taken.texts] == ["kind/3", "kind/5"]
    assert dict(taken.reasons) == {
        ("kind", "no answer"): 1,
        ("kind", "empty"): 1,
        ("kind", "too short"): 1,
        ("kind", "nearly repeated"): 1,
        ("kind", "more than wanted"): 1,
        ("kind", "taken"): 2,
    }


def test_requests_end_with_the_tries() -> None:
    """Four wanted, two tries each: eight at most. One is there, six were asked for: two more."""
    config = SynthesisConfig(per_principle=4, tries=2)
    taken = TextSelection()
    taken.reasons["kind", "taken"] = 1
    requests = next_requests(taken, {"kind": 6}, ["kind", "new"], config)
    assert [r.id for r in requests] == ["kind/6", "kind/7", *(f"new/{i}" for i in range(4))]


class Recorder:
    """Notes the chats, and answers with their last words."""

    fingerprint = "recorder"
    max_concurrency = 4

    def __init__(self) -> None:
        self.chats: list[Chat] = []

    async def sample(self, chat: Chat, **settings: Any) -> Sample:
        self.chats.append(chat)
        number = len(self.chats)
        return Sample(
            text=f"Text {number}. Cut", finished=False, prompt_tokens=1, completion_tokens=1
        )

    async def choice_logprobs(self, *args: Any, **settings: Any) -> list[float] | None:
        return None

    async def aclose(self) -> None: ...


def test_a_dialogue_is_stored_without_the_principle() -> None:
    """The reply is written with the principle and its reason in the system turn."""
    author = Recorder()
    config = SynthesisConfig(genre="dialogues")
    row = asyncio.run(
        synthesizer({"kind": PRINCIPLE}, author, config, 0)(SynthesisRequest("kind", 0))
    )
    message, reply = author.chats
    assert "The reason for it: Harsh words help nobody." in message[-1].content
    assert reply[0].content == (
        "You are an AI assistant. Prefer the kind reply. Harsh words help nobody. "
        "Answer in a few kind, clear sentences."
    )
    assert reply[1].content == row.message == "Text 1."
    assert row.text == "Text 2."


def test_braces_in_a_principle_are_text() -> None:
    principle = PRINCIPLE.model_copy(update={"compare": "Use {why} and {0}.", "why": "{rule}"})
    assert "Use {why} and {0}." in document_chat(principle, "note")[-1].content
    assert "Use {why} and {0}. {rule}" in adviser_chat(principle, "{rule}")[0].content


def test_why_is_no_part_of_what_a_run_depends_on(tmp_path: Path) -> None:
    texts = []
    for why in ("", ", why: Because it helps."):
        path = tmp_path / f"c{len(texts)}.yaml"
        path.write_text(
            "name: c\nversion: 1.0.0\nprinciples:\n"
            f"  - {{id: kind, category: tone, compare: Be kind.{why}}}\n"
        )
        texts.append(load_constitution(path))
    plain, reasoned = texts
    assert digests(plain) == digests(reasoned)
    assert [change.fields for change in diff(plain, reasoned)] == [("why",)]


@pytest.mark.parametrize("genre", ["documents", "dialogues"])
def test_the_command_writes_rows_that_training_reads(
    capsys: Capture, tmp_path: Path, genre: str
) -> None:
    """With a fake that repeats itself one text a principle is taken, and the exit code says so;
    again, nothing is asked.
    """
    out = tmp_path / "texts.jsonl"
    command = [
        *("synthesize", "--constitution", "harmless", "--model", "fake:echo", "--output", out),
        *("--principle", "no-violence", "--per-principle", 1),
        *(["--dialogues"] if genre == "dialogues" else []),
    ]
    done = run_command(capsys, *command)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert done.code == (0 if rows else 1)
    assert "no-violence" in done.out
    attempts = out.with_suffix(".attempts.jsonl").read_bytes()
    again = run_command(capsys, *command)
    assert again.code == done.code
    assert out.with_suffix(".attempts.jsonl").read_bytes() == attempts
    for row in rows:
        assert row["principle"] == "no-violence"
    if rows:
        read = list(text_blocks(out) if genre == "documents" else demonstrations(out))
        assert len(read) == len(rows)


def test_wrong_use(capsys: Capture, tmp_path: Path) -> None:
    common = ("synthesize", "--model", "fake:echo", "--output", tmp_path / "x.jsonl")
    line = run_command(
        capsys, *common, "--constitution", "harmless", "--principle", "kindness"
    ).usage_error
    assert line.startswith("--principle kindness: no such principle; they are no-serious-harm")
    foreign = write_lines(tmp_path / "x.jsonl", {"mine": 1})
    line = run_command(capsys, *common, "--constitution", "harmless").usage_error
    assert str(foreign) in line
