"""Principles against rounds: a revision that undoes what an earlier one had mended is passed over."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest

from cai.constitution import Constitution, Principle
from cai.generate.regression import falls_back, mean_probability
from cai.generate.revise import ReviseConfig, reviser
from cai.lm import FakeLM
from cai.records import Chat, Prompt, PromptDraw, Revision, chat_of

BOOK = Constitution(
    name="toy",
    version="1",
    principles=tuple(
        Principle(
            id=name,
            category="harm",
            critique=f"{name}?",
            revision=f"be {name}.",
            compare=f"Which is more {name}?",
        )
        for name in ("kind", "short")
    ),
)
KINDNESS = {"first": 0.0, "second": 1.0, "third": -1.0}
"""Log-odds that a text is better than `start`, by the principle `kind`; by `short` nothing differs."""


def odds(chat: Chat, choices: Sequence[str]) -> list[float]:
    """A judge without any liking for a place."""
    asked = chat[-1].content
    if "more short" in asked:
        return [math.log(0.5)] * 2
    a, b = (
        next(text for text in ("start", *KINDNESS) if text in part)
        for part in asked.split("Reply (B)")
    )
    return [KINDNESS.get(a, 0.0), KINDNESS.get(b, 0.0)]


def revised(texts: Sequence[str], **config: object) -> Revision:
    left = iter(texts)

    def said(chat: Chat, seed: int) -> str:
        last = chat[-1].content
        return (
            next(left) if "Write only the new reply." in last else "hm" if "?" in last else "start"
        )

    settings = ReviseConfig.model_validate(
        {"rounds": 3, "stop_when_kept": False, "matrix": True} | config
    )
    item = PromptDraw(prompt=Prompt(chat=chat_of(("user", "Go.")), kind="disallowed"))
    step = reviser(BOOK, FakeLM(said, odds), settings, lambda prompt, reply: None, SEED)
    return asyncio.run(step(item))


SEED = 0
"""Of which the three rounds draw both principles."""


def test_the_best_round_is_kept() -> None:
    """By kindness 0, 1, -1 nats: the second is best, sigma(1) = 0.731; the third falls back behind it."""
    row = revised(list(KINDNESS))
    assert row.matrix is not None
    assert {made.principle for made in row.rounds} == set(row.matrix) == {"kind", "short"}
    assert row.matrix["kind"] == pytest.approx((0.5, 0.7310586, 0.2689414))
    assert row.matrix["short"] == (0.5, 0.5, 0.5)
    assert (row.final, row.chosen_round) == ("second", 1)


def test_without_the_matrix_the_last_one_is() -> None:
    row = revised(list(KINDNESS), matrix=False)
    assert (row.matrix, row.final) == (None, "third")


def test_falling_back_needs_a_gain_before_it_and_more_than_slack() -> None:
    assert falls_back({"a": (0.9, 0.5)}, 1) == "a"
    assert falls_back({"a": (0.9, 0.85)}, 1) is None, "judges are not exact"
    assert falls_back({"a": (0.5, 0.2)}, 1) is None, "nothing had been mended"
    assert falls_back({"a": (None, 0.2), "b": (0.9, None)}, 1) is None, "unknown is not worse"
    assert falls_back({"a": (0.9, 0.1)}, 0) is None


def test_standing_is_a_mean_over_what_is_known() -> None:
    assert mean_probability({"a": (0.9,), "b": (None,), "c": (0.5,)}, 0) == pytest.approx(0.7)
    assert mean_probability({"a": (None,)}, 0) == 0.5


def test_several_turns_are_criticised_as_a_whole() -> None:
    """The chat before the last user turn is in the transcript, and a system turn is not."""
    chat = chat_of(
        ("system", "Be brief."), ("user", "One."), ("assistant", "Two."), ("user", "Three.")
    )
    lm = FakeLM(lambda chat, seed: "start" if chat[-1].content == "Three." else "better", odds)
    step = reviser(BOOK, lm, ReviseConfig(), lambda prompt, reply: None, 0)
    row = asyncio.run(step(PromptDraw(prompt=Prompt(chat=chat, kind="disallowed"))))
    assert lm.calls[0] == chat, "the first reply is drawn with all turns, the system's too"
    shown = lm.calls[1][-1].content
    assert "User: One.\nAssistant: Two.\nUser: Three.\nAssistant: start" in shown
    assert "Be brief." not in shown
    assert row.chat == chat
