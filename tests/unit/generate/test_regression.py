"""Detection of revisions that undo an earlier improvement, and the choice among the others."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest

from cai.constitution import Constitution, Principle
from cai.generate.regression import mean_probability, regressed_principle
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
"""Log-odds that a text is better than `start` by the principle `kind`; by `short` all are equal."""
SEED = 0
"""With this seed, the three rounds draw both principles."""


def odds(chat: Chat, choices: Sequence[str]) -> list[float]:
    """A judge without position bias."""
    question = chat[-1].content
    if "more short" in question:
        return [math.log(0.5)] * 2
    part_a, part_b = question.split("Reply (B)")
    return [_kindness(part_a), _kindness(part_b)]


def _kindness(part: str) -> float:
    reply = next(text for text in ("start", *KINDNESS) if text in part)
    return KINDNESS.get(reply, 0.0)


def revise(texts: Sequence[str], **changes: object) -> Revision:
    revisions = iter(texts)

    def reply(chat: Chat, seed: int) -> str:
        last = chat[-1].content
        if "Write only the new reply." in last:
            return next(revisions)
        return "hm" if "?" in last else "start"

    config = ReviseConfig.model_validate(
        {"rounds": 3, "stop_when_kept": False, "matrix": True} | changes
    )
    item = PromptDraw(prompt=Prompt(chat=chat_of(("user", "Go.")), kind="disallowed"))
    step = reviser(BOOK, FakeLM(reply, odds), config, lambda prompt, reply: None, SEED)
    return asyncio.run(step(item))


def test_the_best_round_is_kept() -> None:
    """Kindness 0, 1, -1 nats: the second is best, sigma(1) = 0.731; the third falls behind."""
    row = revise(list(KINDNESS))
    assert row.matrix is not None
    assert {entry.principle for entry in row.rounds} == set(row.matrix) == {"kind", "short"}
    assert row.matrix["kind"] == pytest.approx((0.5, 0.7310586, 0.2689414))
    assert row.matrix["short"] == (0.5, 0.5, 0.5)
    assert (row.final, row.chosen_round) == ("second", 1)


def test_without_the_matrix_the_last_one_is() -> None:
    row = revise(list(KINDNESS), matrix=False)
    assert (row.matrix, row.final) == (None, "third")


def test_falling_back_needs_a_gain_before_it_and_more_than_slack() -> None:
    assert regressed_principle({"a": (0.9, 0.5)}, 1) == "a"
    assert regressed_principle({"a": (0.9, 0.85)}, 1) is None, "within the slack"
    assert regressed_principle({"a": (0.5, 0.2)}, 1) is None, "no earlier improvement"
    assert regressed_principle({"a": (None, 0.2), "b": (0.9, None)}, 1) is None, (
        "unknown is not worse"
    )
    assert regressed_principle({"a": (0.9, 0.1)}, 0) is None


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
