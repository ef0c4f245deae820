"""Gates: filters of generated text that return a reason against a reply, or None."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from difflib import SequenceMatcher

from cai.records import Prompt

Gate = Callable[[Prompt, str], str | None]
"""(prompt, reply) -> reason against the reply, or None."""


def not_degenerate(prompt: Prompt, reply: str) -> str | None:
    """A gate against empty text, and against text with the same three words four times."""
    words = reply.lower().split()
    if not any(char.isalnum() for char in reply):
        return "empty"
    trigrams = Counter(tuple(words[i : i + 3]) for i in range(len(words) - 2))
    if trigrams and max(trigrams.values()) >= 4:
        return "repeats itself"
    return None


def near_copy(text: str, other: str, *, limit: float = 0.9) -> bool:
    """Whether two texts share more than `limit` of their words, in order (Ratcliff-Obershelp)."""
    matcher = SequenceMatcher(None, text.lower().split(), other.lower().split(), autojunk=False)
    return matcher.ratio() > limit


def all_of(*gates: Gate) -> Gate:
    """A gate that returns the reason of the first of `gates` to object."""

    def joined(prompt: Prompt, reply: str) -> str | None:
        for gate in gates:
            if reason := gate(prompt, reply):
                return reason
        return None

    return joined
