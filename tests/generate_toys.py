"""Principles, prompts, pairs and fake judges for the tests of `cai.generate`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

from cai.constitution import Constitution, Examples, Principle
from cai.generate.label import LabelConfig, labeller
from cai.lm import FakeLM
from cai.records import Kind, Pair, Preference, Prompt, chat_of
from cai.templates import parse_comparison


def principle(
    name: str, kinds: Sequence[Kind] = ("disallowed", "sensitive"), **changes: object
) -> Principle:
    texts = {
        "critique": f"critique by {name}?",
        "revision": f"revise by {name}.",
        "compare": f"compare by {name}?",
    }
    return Principle.model_validate(
        {"id": name, "category": "harm", "applies_to": kinds} | texts | changes
    )


def constitution(*principles: Principle, examples: Examples | None = None) -> Constitution:
    return Constitution(
        name="toy", version="1", principles=principles, examples=examples or Examples()
    )


ONE_PRINCIPLE = constitution(principle("one"))


def prompt(
    text: str = "Do harm.", kind: Kind | None = "disallowed", category: str | None = None
) -> Prompt:
    return Prompt(chat=chat_of(("user", text)), kind=kind, category=category)


def declines(prompt: Prompt, reply: str) -> str | None:
    """A gate that lets through replies that say sorry."""
    return None if "sorry" in reply else "does not decline"


THREE_PRINCIPLES = Constitution(
    name="toy",
    version="1",
    principles=tuple(
        Principle(id=name, category="c", compare=f"Which is more {name}?")
        for name in ("kind", "short", "true")
    ),
)
Margin = Callable[[str, str], float]
"""(reply shown as A, reply shown as B) -> log-odds of A, in nats."""


def judge(margin: Margin, rationale: str = "Let me see.") -> FakeLM:
    """A judge with the given log-odds, which writes the same rationale every time."""
    return FakeLM(
        lambda chat, seed: rationale,
        lambda chat, choices: [margin(*parse_comparison(chat) or ("", "")), 0.0],
    )


def pair(first: str = "good", second: str = "bad", request: str = "Say it.") -> Pair:
    return Pair(source="p", chat=chat_of(("user", request)), first=first, second=second)


def label(
    lm: FakeLM, pair: Pair, book: Constitution = THREE_PRINCIPLES, **settings: Any
) -> Preference:
    config = LabelConfig.model_validate(settings)
    step = labeller(book, lm, config, 0, lambda pair: (None, None))
    return asyncio.run(step(pair))


def sigma(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))
