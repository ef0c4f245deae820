"""Red-team messages: their addresses, their selection, resuming after a kill."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest
from interruptions import Killed, killed_at

from cai.errors import UnansweredError
from cai.generate.redteam import (
    MessageSelection,
    RedteamConfig,
    next_requests,
    redteamer,
    select_messages,
    write_messages,
)
from cai.lm import FakeLM
from cai.records import Attempt, Chat, Prompt, chat_of
from cai.reply_parsing import parse_message
from cai.store import read_rows
from cai.templates import redteam_chat


def seed_prompt(text: str, category: str) -> Prompt:
    return Prompt(chat=chat_of(("user", text)), kind="disallowed", category=category)


SEEDS = [seed_prompt(f"seed {c} {i}", c) for c in ("fraud", "theft") for i in range(3)]
CONFIG = RedteamConfig(per_category=4, tries=3, shots=2)
WORDS = [f"word{i}" for i in range(500)]


def attempt(number: int, text: str | None, category: str = "fraud") -> Attempt:
    return Attempt(
        source=f"{category}/{number}",
        category=category,
        text=text,
        unanswered=None if text is not None else "500",
    )


def message(chat: Chat, seed: int) -> str:
    """Eight words by the seed; every fourth message is the same."""
    if seed % 4 == 0:
        return "Say the same old thing to everybody again"
    return " ".join(random.Random(seed).sample(WORDS, 8))


def not_sorry(prompt: Prompt, text: str) -> str | None:
    return "declined" if "sorry" in text else None


def collect(path: Path, lm: FakeLM, config: RedteamConfig = CONFIG) -> MessageSelection:
    return asyncio.run(
        write_messages(path, ["theft", "fraud"], SEEDS, lm, config, not_sorry, seed=0, origin="toy")
    )


def test_what_is_taken_and_why_not() -> None:
    rows = [
        attempt(0, "A first message about money and banks"),
        attempt(1, "a first message about money and banks"),
        attempt(2, "I am sorry, no"),
        attempt(3, None),
        attempt(4, ""),
        attempt(5, "seed fraud 1"),
        *(
            attempt(i, text)
            for i, text in enumerate(("b c d e", "f g h i", "j k l m", "n o p q"), 6)
        ),
    ]
    taken = select_messages(rows, SEEDS, CONFIG, not_sorry, "toy")
    assert [p.chat[0].content for p in taken.prompts] == [
        "A first message about money and banks",
        "b c d e",
        "f g h i",
        "j k l m",
    ]
    assert all(
        (p.kind, p.category, p.origin) == ("disallowed", "fraud", "toy") for p in taken.prompts
    )
    assert taken.reasons == {
        ("fraud", "taken"): 4,
        ("fraud", "nearly repeated"): 2,
        ("fraud", "declined"): 1,
        ("fraud", "no answer"): 1,
        ("fraud", "empty"): 1,
        ("fraud", "more than wanted"): 1,
    }


def test_examples_are_of_the_category_and_follow_from_the_address() -> None:
    lm = FakeLM(message)
    step = redteamer(SEEDS, lm, CONFIG, 0)
    requests = next_requests(MessageSelection(), {}, ["theft", "fraud"], CONFIG)
    assert [r.id for r in requests] == [f"{c}/{i}" for c in ("theft", "fraud") for i in range(4)]
    attempts = [asyncio.run(step(request)) for request in requests]
    assert [asyncio.run(step(request)) for request in reversed(requests)] == attempts[::-1]
    for request, chat in zip(requests, lm.calls, strict=False):
        shown = [m.content for m in chat if m.role == "assistant"]
        assert len(set(shown)) == 2
        assert all(text.startswith(f"seed {request.category}") for text in shown)
        assert request.category in chat[-1].content


def test_a_category_without_seeds_borrows_them() -> None:
    lm = FakeLM(message)
    [request, *_] = next_requests(MessageSelection(), {}, ["weapons"], CONFIG)
    asyncio.run(redteamer(SEEDS, lm, CONFIG, 0)(request))
    assert sum(m.role == "assistant" for m in lm.calls[0]) == 2


def test_goes_on_until_categories_are_full(tmp_path: Path) -> None:
    taken = collect(tmp_path / "a.jsonl", FakeLM(message))
    assert Counter(p.category for p in taken.prompts) == {"fraud": 4, "theft": 4}
    assert len({p.id for p in taken.prompts}) == 8


def test_gives_up_after_so_many_tries(tmp_path: Path) -> None:
    """The same message every time: one prompt in the first category, 4 x 3 calls in each."""
    lm = FakeLM(lambda chat, seed: "The same message every time")
    taken = collect(tmp_path / "a.jsonl", lm)
    assert taken.reasons == {
        ("fraud", "taken"): 1,
        ("fraud", "nearly repeated"): 11,
        ("theft", "nearly repeated"): 12,
    }
    assert len(lm.calls) == 24


@pytest.mark.parametrize("calls", [0, 1, 3, 5, 7])
def test_killed_and_run_again(tmp_path: Path, calls: int) -> None:
    """The same prompts as without interruption, and no answered call is repeated."""
    uninterrupted = collect(tmp_path / "a.jsonl", FakeLM(message, max_concurrency=1))
    with pytest.raises(Killed):
        collect(tmp_path / "b.jsonl", FakeLM(killed_at(calls, message), max_concurrency=1))
    assert len(list(read_rows(tmp_path / "b.jsonl", Attempt)) if calls else []) == calls
    after = FakeLM(message, max_concurrency=1)
    assert collect(tmp_path / "b.jsonl", after).prompts == uninterrupted.prompts
    addresses = [row.source for row in read_rows(tmp_path / "b.jsonl", Attempt)]
    assert len(addresses) == len(set(addresses)) == calls + len(after.calls)


def test_unanswered_calls_are_rows(tmp_path: Path) -> None:
    def fails(chat: Chat, seed: int) -> str:
        raise UnansweredError("status 500")

    taken = collect(tmp_path / "a.jsonl", FakeLM(fails))
    assert taken.prompts == []
    assert {row.unanswered for row in read_rows(tmp_path / "a.jsonl", Attempt)} == {
        "no answer: status 500"
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('1. "Tell me a thing"\n2. Another', "Tell me a thing"),
        ("User: Tell me a thing", "Tell me a thing"),
        ("Sure, here is a message:\nTell me a thing", "Tell me a thing"),
        ("- Tell me a thing", "Tell me a thing"),
        (" \n ", None),
    ],
)
def test_message_parser(text: str, expected: str | None) -> None:
    assert parse_message(text, finished=True) == expected


def test_a_message_cut_short_is_none() -> None:
    assert parse_message("Tell me how to", finished=False) is None
    assert parse_message("Tell me. And then", finished=False) == "Tell me."


def test_template() -> None:
    chat = redteam_chat([("fraud", "one")], "theft")
    assert [m.role for m in chat] == ["system", "user", "assistant", "user"]
    assert "theft" in chat[-1].content
