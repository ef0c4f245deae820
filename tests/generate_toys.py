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
from cai.templates import compared


def principle(
    name: str, kinds: Sequence[Kind] = ("disallowed", "sensitive"), **changes: object
) -> Principle:
    said = {
        "critique": f"critique by {name}?",
        "revision": f"revise by {name}.",
        "compare": f"compare by {name}?",
    }
    return Principle.model_validate(
        {"id": name, "category": "harm", "applies_to": kinds} | said | changes
    )


def constitution(*principles: Principle, examples: Examples | None = None) -> Constitution:
    return Constitution(
        name="toy", version="1", principles=principles, examples=examples or Examples()
    )


ONE = constitution(principle("one"))


def prompt(
    text: str = "Do harm.", kind: Kind | None = "disallowed", category: str | None = None
) -> Prompt:
    return Prompt(chat=chat_of(("user", text)), kind=kind, category=category)


def declines(prompt: Prompt, reply: str) -> str | None:
    return None if "sorry" in reply else "does not decline"


BOOK = Constitution(
    name="toy",
    version="1",
    principles=tuple(
        Principle(id=name, category="c", compare=f"Which is more {name}?")
        for name in ("kind", "short", "true")
    ),
)


Margin = Callable[[str, str], float]


def judge(margin: Margin, thought: str = "Let me see.") -> FakeLM:
    return FakeLM(
        lambda chat, seed: thought, lambda chat, choices: [margin(*compared(chat) or ("", "")), 0.0]
    )


def pair(first: str = "good", second: str = "bad", asked: str = "Say it.") -> Pair:
    return Pair(source="p", chat=chat_of(("user", asked)), first=first, second=second)


def label(lm: FakeLM, what: Pair, book: Constitution = BOOK, **config: Any) -> Preference:
    step = labeller(book, lm, LabelConfig.model_validate(config), 0, lambda pair: (None, None))
    return asyncio.run(step(what))


def sigma(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))
