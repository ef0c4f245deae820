"""What to watch in generated text: variety, length, and phrases that come back again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

RUN = 6
"""Words in a row that make a phrase."""
OPENING = 3
COMMON = 0.05
"""Share of the texts (two texts at least) that a phrase has to be in to count as boilerplate."""


class Monitors(NamedTuple):
    """Over a set of texts; None where no text is long enough to say."""

    words: float | None
    """Mean number of words."""
    distinct_1: float | None
    """Different words by words (Li et al., arXiv:1510.03055)."""
    distinct_2: float | None
    boilerplate: float | None
    """Share of the texts that hold a run of six words which one text in twenty holds."""
    same_opening: float | None
    """Share of the texts that begin with the commonest three words."""


def monitors(texts: Sequence[str]) -> Monitors:
    said = [text.casefold().split() for text in texts]
    if not said:
        return Monitors(None, None, None, None, None)
    phrases = Counter(run for words in said for run in set(_runs(words, RUN)))
    often = max(2.0, COMMON * len(said))
    stale = {run for run, count in phrases.items() if count >= often}
    openings = Counter(tuple(words[:OPENING]) for words in said if len(words) >= OPENING)
    return Monitors(
        words=sum(map(len, said)) / len(said),
        distinct_1=distinct(said, 1),
        distinct_2=distinct(said, 2),
        boilerplate=sum(any(run in stale for run in _runs(words, RUN)) for words in said) / len(said),
        same_opening=max(openings.values()) / len(said) if openings else None,
    )


def distinct(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Different runs of `n` words by all of them; None: there are none."""
    runs = [run for words in texts for run in _runs(words, n)]
    return len(set(runs)) / len(runs) if runs else None


def _runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
