"""Gates: filters of generated text that return a reason against a reply, or None."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate

from cai.data.words import spaced_words
from cai.records import Prompt

Gate = Callable[[Prompt, str], str | None]
"""(prompt, reply) -> reason against the reply, or None."""
Score = Callable[[Prompt, str], float | None]
"""(prompt, reply) -> how good the reply is; None: unknown."""
UNSPACED_RUN = 6
MAX_COMPARISONS = 2_000_000
"""Steps of one comparison in `near_copy`: about 0.2 s, and more than texts of 3,000 words take."""


@dataclass(frozen=True)
class GradedGate:
    """A gate that also scores replies, so that the best of several can be chosen."""

    gate: Gate
    score: Score

    def __call__(self, prompt: Prompt, reply: str) -> str | None:
        return self.gate(prompt, reply)


def not_degenerate(prompt: Prompt, reply: str) -> str | None:
    """A gate against empty text, and against text with the same three words four times.

    In scripts without spaces, where a word is of a character or two, it is the same six characters.
    """
    text = reply.lower()
    words = text.split()
    if not any(char.isalnum() for char in reply):
        return "empty"
    characters = spaced_words(text)
    length = 3
    if len(characters) > 2 * len(words):
        words, length = characters, UNSPACED_RUN
    runs = Counter(tuple(words[i : i + length]) for i in range(len(words) - length + 1))
    if runs and max(runs.values()) >= 4:
        return "repeats itself"
    return None


def near_copy(text: str, other: str, *, limit: float = 0.9) -> bool:
    """Whether two texts share more than `limit` of their words, in order (Ratcliff-Obershelp).

    Chinese, Japanese and the like, which have no spaces, are compared by characters.

    The order is not looked at where that would take more than `MAX_COMPARISONS` steps, as in long
    texts of few different words.
    """
    words, others = spaced_words(text.lower()), spaced_words(other.lower())
    total = len(words) + len(others)
    matcher = SequenceMatcher(None, words, others, autojunk=False)
    if matcher.quick_ratio() <= limit:  # an upper bound: the share without regard to order
        return False
    matched = _matched_words(matcher, words, others)
    return matched is None or not total or 2 * matched / total > limit


def _matched_words(
    matcher: SequenceMatcher[str], words: Sequence[str], others: Sequence[str]
) -> int | None:
    """`matcher`'s matches, as `SequenceMatcher.ratio` counts them; None above the limit on work.

    `find_longest_match` visits, for every word of its range, all indices of that word in the
    other text.
    """
    counts = Counter(others)
    visits = [0, *accumulate(counts[word] + 1 for word in words)]
    work, matched = 0, 0
    ranges = [(0, len(words), 0, len(others))]
    while ranges:
        start, end, other_start, other_end = ranges.pop()
        work += visits[end] - visits[start]
        if work > MAX_COMPARISONS:
            return None
        match = matcher.find_longest_match(start, end, other_start, other_end)
        if not match.size:
            continue
        matched += match.size
        if start < match.a and other_start < match.b:
            ranges.append((start, match.a, other_start, match.b))
        if match.a + match.size < end and match.b + match.size < other_end:
            ranges.append((match.a + match.size, end, match.b + match.size, other_end))
    return matched


def all_of(*gates: Gate) -> Gate:
    """A gate that returns the reason of the first of `gates` to object."""

    def joined(prompt: Prompt, reply: str) -> str | None:
        for gate in gates:
            if reason := gate(prompt, reply):
                return reason
        return None

    return joined
