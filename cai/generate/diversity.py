"""Diversity metrics of generated text: length, distinct-n, boilerplate and shared openings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from cai.data.words import spaced_words

PHRASE_WORDS = 6
OPENING_WORDS = 3
BOILERPLATE_SHARE = 0.05
"""Share of the texts (and two texts at least) that hold a phrase for it to count as boilerplate."""


class DiversityMetrics(NamedTuple):
    """Metrics of a set of texts; None if no text is long enough."""

    words: float | None
    """Mean number of words."""
    distinct_1: float | None
    """Distinct words divided by all words (Li et al., arXiv:1510.03055)."""
    distinct_2: float | None
    """The same of word pairs."""
    boilerplate: float | None
    """Share of the texts with a run of six words that occurs in 5 % of the texts."""
    same_opening: float | None
    """Share of the texts that begin with the most frequent three words."""


def diversity_metrics(texts: Sequence[str]) -> DiversityMetrics:
    """Diversity metrics of the texts, case-folded and split into words.

    The characters of scripts without spaces are words.
    """
    word_lists = [spaced_words(text.casefold()) for text in texts]
    if not word_lists:
        return DiversityMetrics(None, None, None, None, None)
    openings = Counter(
        tuple(words[:OPENING_WORDS]) for words in word_lists if len(words) >= OPENING_WORDS
    )
    return DiversityMetrics(
        words=sum(map(len, word_lists)) / len(word_lists),
        distinct_1=distinct_n(word_lists, 1),
        distinct_2=distinct_n(word_lists, 2),
        boilerplate=_boilerplate(word_lists),
        same_opening=max(openings.values()) / len(word_lists) if openings else None,
    )


def distinct_n(word_lists: Sequence[Sequence[str]], n: int) -> float | None:
    """Distinct n-grams divided by all n-grams; None if there are none."""
    ngrams = [ngram for words in word_lists for ngram in _ngrams(words, n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def _boilerplate(word_lists: Sequence[Sequence[str]]) -> float:
    """Share of the texts that hold a phrase which many texts hold."""
    phrases = [set(_ngrams(words, PHRASE_WORDS)) for words in word_lists]
    texts_with = Counter(phrase for in_text in phrases for phrase in in_text)
    threshold = max(2.0, BOILERPLATE_SHARE * len(word_lists))
    frequent = {phrase for phrase, count in texts_with.items() if count >= threshold}
    return sum(not frequent.isdisjoint(in_text) for in_text in phrases) / len(word_lists)


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
