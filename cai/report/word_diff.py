"""The difference of two texts by word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

Change = Literal["same", "removed", "added"]
MAX_TOKENS = 2000
"""Of either text: the time grows with the square."""
_TOKENS = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True)
class WordDiff:
    parts: list[tuple[Change, str]]
    """Without the added parts the first text, without the removed ones the second."""
    removed: int
    """Words, like the next two: without spaces and punctuation."""
    added: int
    same: int


def word_diff(before: str, after: str) -> WordDiff | None:
    """What was removed from `before` and added to get `after`; None for texts too long for it."""
    old, new = _TOKENS.findall(before), _TOKENS.findall(after)
    if max(len(old), len(new)) > MAX_TOKENS:
        return None
    parts: list[tuple[Change, str]] = []
    counts: dict[Change, int] = {"same": 0, "removed": 0, "added": 0}

    def add(change: Change, tokens: list[str]) -> None:
        if tokens:
            parts.append((change, "".join(tokens)))
            counts[change] += sum(token[0].isalnum() or token[0] == "_" for token in tokens)

    for operation, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if operation == "equal":
            add("same", old[i:j])
        else:
            add("removed", old[i:j])
            add("added", new[k:m])
    return WordDiff(parts, counts["removed"], counts["added"], counts["same"])
