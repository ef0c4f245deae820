"""What the sentence model looks at: a reply's sentences, and the features of each.

Features are the words of a sentence, pairs of neighbours, beginnings of long words (`~`), how the
sentence begins (`^`), and what it is like (`#`): its length, its position, what it shares with the
request.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from cai.rubric.english import COMMON_WORDS
from cai.rubric.text_models import WORD

MAX_CHARACTERS = 20_000
"""What follows in a longer reply is not looked at."""
_END = re.compile(r"(?<=[.!?])[\"')\]*]*\s+|(?<=[a-z]):\s+")
_NO_LETTER = re.compile(r"[\W\d_]*")
_LIST_ITEM = re.compile(r"(?:\d{1,3}[.)]|[-*•])\s")
_STEM, _PREFIX = 4, 5
"""Letters that stand for a word: in the overlap with the request, and as a feature."""
Array = NDArray[np.float64]


def sentences_of(text: str) -> list[str]:
    """The sentences of a normalised text; a list's number stays with its item. At least one."""
    parts: list[str] = []
    for part in _END.split(text[:MAX_CHARACTERS]):
        if parts and _NO_LETTER.fullmatch(parts[-1]):
            parts[-1] = f"{parts[-1]} {part}".strip()
        else:
            parts.append(part)
    return parts


def stems_of(text: str) -> frozenset[str]:
    """The beginnings of the words that carry a topic, of a normalised text."""
    return frozenset(
        word[:_STEM] for word in WORD.findall(text) if len(word) > 3 and word not in COMMON_WORDS
    )


def features_of(sentences: Sequence[str], wanted: frozenset[str]) -> list[set[str]]:
    """The features of each sentence; `wanted` are the stems of the request."""
    features = []
    for index, sentence in enumerate(sentences):
        words = WORD.findall(sentence)
        position = position_features(index, len(sentences) - 1)
        features.append(
            {
                *chain.from_iterable(map(word_features, words)),
                *map(" ".join, pairwise(words)),
                *other_features(sentence, words, wanted),
                *position,
            }
        )
    return features


def position_features(index: int, last: int) -> tuple[str, ...]:
    if last == 0:
        return ("#first", "#only")
    return ({1: "#second", last: "#last", 0: "#first"}.get(index, "#middle"),)


def word_features(word: str) -> tuple[str, ...]:
    return (word, f"~{word[:_PREFIX]}") if len(word) > _PREFIX else (word,)


def other_features(sentence: str, words: Sequence[str], wanted: frozenset[str]) -> list[str]:
    """All but those of a word, of a pair of words, and of the sentence's position."""
    features = [f"#words {min(6, int(math.log2(len(words) + 1)))}"]
    if words:
        features += (f"^{words[0]}", f"^{' '.join(words[:2])}")
    if sentence.endswith(("?", "!")):
        features.append(f"#{sentence[-1]}")
    if _LIST_ITEM.match(sentence):
        features.append("#item")
    if "you" in words or "your" in words:
        features.append("#you")
    return [*features, *_overlap(words, wanted)] if wanted else features


def _overlap(words: Sequence[str], wanted: frozenset[str]) -> set[str]:
    stems = {word[:_STEM] for word in words if len(word) > 3 and word not in COMMON_WORDS}
    if not stems:
        return {"#shared 0", "#no topic"}
    shared = len(stems & wanted)
    return {f"#shared {min(2, shared)}", f"#share {3 * shared // len(stems)}"}


def word_counts(sentences: Sequence[str]) -> Array:
    """Words of each sentence, at least 1."""
    return np.array([max(1, len(WORD.findall(sentence))) for sentence in sentences], float)
