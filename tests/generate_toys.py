"""Principles, prompts, pairs and fake judges for the tests of `cai.generate`."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from cai.constitution import Constitution, Examples, Principle
from cai.generate.label import labeller
from cai.generate.label_config import LabelConfig
from cai.lm import FakeLM
from cai.records import Chat, Kind, Pair, Preference, Prompt, chat_of
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


def comparison_parts(chat: Chat) -> tuple[str, str, str]:
    """(reply A, reply B, question) of a comparison."""
    match = re.search(
        r"Reply \(A\):\n(`+)\n(.*?)\n\1\n\nReply \(B\):\n(`+)\n(.*?)\n\3\n\n(.*)$",
        chat[-1].content,
        re.DOTALL,
    )
    assert match
    return match[2], match[4], match[5]


def pair(
    first: str = "good", second: str = "bad", request: str = "Say it.", source: str = "p"
) -> Pair:
    return Pair(source=source, chat=chat_of(("user", request)), first=first, second=second)


def label(
    lm: FakeLM,
    pair: Pair,
    constitution: Constitution = THREE_PRINCIPLES,
    kind: Kind | None = None,
    **settings: Any,
) -> Preference:
    """The label of a pair whose prompt is of this kind; `settings` are of the stage."""
    config = LabelConfig.model_validate(settings)
    step = labeller(constitution, lm, config, 0, lambda pair: (kind, None))
    return asyncio.run(step(pair))


def sigma(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))
