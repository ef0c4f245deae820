"""What may become training text. A gate says why a text may not, or None; gates are joined, and the first reason counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from difflib import SequenceMatcher

from cai.records import Prompt

Gate = Callable[[Prompt, str], str | None]
"""(prompt, reply) -> reason against it, or None."""


def not_degenerate(prompt: Prompt, reply: str) -> str | None:
    """Against empty text, and text that repeats itself."""
    words = reply.lower().split()
    if not any(char.isalnum() for char in reply):
        return "empty"
    grams = Counter(zip(*(words[i:] for i in range(3)), strict=False))
    if grams and max(grams.values()) >= 4:
        return "repeats itself"
    return None


def near_copy(text: str, other: str, *, limit: float = 0.9) -> bool:
    """Whether two texts share more than `limit` of their words, in order (Ratcliff-Obershelp)."""
    return SequenceMatcher(None, text.lower().split(), other.lower().split(), autojunk=False).ratio() > limit


def all_of(*gates: Gate) -> Gate:
    """The first reason of any gate."""

    def gate(prompt: Prompt, reply: str) -> str | None:
        return next((reason for each in gates if (reason := each(prompt, reply))), None)

    return gate
