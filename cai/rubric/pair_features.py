"""Features of labelled pairs that a rubric could have as propositions.

They are words and pairs of neighbouring words (n-grams), and a few measured features. Every feature
is a proposition with a test of its own, so what is counted here is what a rubric will find: an
n-gram is a pattern, and a measured feature is a pattern or a computed test. Left out on purpose:
the length of a reply, which a fit takes up beside the features, and numbers, addresses and names
with digits, which belong to one text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cai.constitution.schema import Proposition
from cai.records import Kind
from cai.rubric.prefilter import Prefilter
from cai.rubric.propositions import (
    NormalizedReply,
    ReplyPatterns,
    compile_test,
    normalize_reply,
)

MAX_LETTERS = 20
"""Longer words are no candidates."""
MAX_TEXT = 20_000
"""Characters of a reply that are read."""
MIN_SOURCES = 2
"""Sources of an n-gram, below which no count of it is kept at all."""

_TOKEN = re.compile(r"[\w']+")
_WORD = re.compile(rf"[^\W\d_]{{1,{MAX_LETTERS}}}(?:'[^\W\d_]{{1,{MAX_LETTERS}}})?")
_NEIGHBOURS = (" ", ", ")
"""What stands between the two words of a pair."""
Array = NDArray[np.float64]
Indices = NDArray[np.int64]

MEASURED: Mapping[str, Proposition] = {
    "asks": Proposition(question="Does the reply ask a question?", patterns=(r"\?",)),
    "exclaims": Proposition(question="Has the reply an exclamation mark?", patterns=("!",)),
    "has_digits": Proposition(question="Is there a digit in the reply?", patterns=(r"\d",)),
    "has_list": Proposition(
        question="Has the reply a numbered list?", patterns=(r"(?:^| )1[.)] \S",)
    ),
    "has_code": Proposition(question="Has the reply a code fence?", patterns=("```",)),
    "degenerate": Proposition(question="Does the reply repeat one thing over and over?"),
    "echoes_prompt": Proposition(question="Does the reply merely repeat the prompt?"),
}
"""Measured features, in any language."""
MEASURED_ENGLISH: Mapping[str, Proposition] = {
    "fragment": Proposition(question="Is the reply cut off, or too short to be an answer?"),
    "comfort_only": Proposition(question="Is the reply nothing but phrases of comfort?"),
    "garbled": Proposition(question="Has the reply no words of the language?"),
}


class TextPair(NamedTuple):
    """Two replies to a prompt, the better one first."""

    prompt: str
    """The last user turn."""
    key: str
    """What prompts of the same words share."""
    source: str
    """Whose the prompt is: a user, or else the prompt's key."""
    kind: Kind | None
    chosen: str
    rejected: str


@dataclass(frozen=True)
class PairTable:
    """N pairs and their F features."""

    names: tuple[str, ...]
    """N-grams as their words, and measured features as `measured_name` writes them."""
    chosen_NF: Any
    """Sparse: 1 where the chosen reply has the feature."""
    rejected_NF: Any
    prompts: tuple[str, ...]
    """The key of each pair's prompt."""
    source_N: Indices
    """Number of each pair's source."""
    length_N: Array
    """log of the chosen reply's words minus that of the rejected one's."""
    is_empty: tuple[tuple[bool, bool], ...]
    """Whether there is nothing to read in the chosen, and in the rejected reply."""

    def __len__(self) -> int:
        return len(self.prompts)


def measured_name(id: str) -> str:
    """The name of a measured feature in a table; no n-gram has such a name."""
    return f"#{id}"


def measured(language: str) -> dict[str, Proposition]:
    """Id -> proposition of the measured features of a language."""
    return dict(MEASURED) | (dict(MEASURED_ENGLISH) if language == "en" else {})


def ngrams(text: str) -> Iterator[str]:
    """Words of a normalised text, and neighbours in one clause; repeated ones too."""
    tokens = list(_TOKEN.finditer(text))
    plain = [_WORD.fullmatch(token[0]) is not None for token in tokens]
    for token, usable in zip(tokens, plain, strict=True):
        if usable:
            yield token[0]
    for (first, first_usable), (second, usable) in pairwise(zip(tokens, plain, strict=True)):
        if first_usable and usable and text[first.end() : second.start()] in _NEIGHBOURS:
            yield f"{first[0]} {second[0]}"


def ngram_pattern(ngram: str) -> str:
    """The regular expression that finds an n-gram where `ngrams` does."""
    words = ",? ".join(map(re.escape, ngram.split(" ")))
    return rf"(?<![\w']){words}(?![\w'])"


def proposition_of(name: str, language: str) -> Proposition:
    """The proposition of a feature, with a question for people and models."""
    if name.startswith("#"):
        return measured(language)[name[1:]]
    return Proposition(question=f'Does the reply say "{name}"?', patterns=(ngram_pattern(name),))


def pair_table(pairs: Sequence[TextPair], language: str) -> PairTable:
    """The features of pairs that occur in the replies of more than one source."""
    read = _Reader(language)
    chosen = [read(pair.prompt, pair.chosen) for pair in pairs]
    rejected = [read(pair.prompt, pair.rejected) for pair in pairs]
    number_of: dict[str, int] = {}
    sources = np.array([number_of.setdefault(pair.source, len(number_of)) for pair in pairs])
    kept = _of_several_sources([*chosen, *rejected], np.concatenate([sources, sources]))
    names = list(read.columns)
    new_column = np.full(len(names), -1)
    new_column[kept] = np.arange(len(kept))
    read_pairs = list(zip(chosen, rejected, strict=True))
    lengths = [math.log1p(a.words) - math.log1p(b.words) for a, b in read_pairs]
    return PairTable(
        names=tuple(names[column] for column in kept),
        chosen_NF=_matrix(chosen, new_column, len(kept)),
        rejected_NF=_matrix(rejected, new_column, len(kept)),
        prompts=tuple(pair.key for pair in pairs),
        source_N=sources,
        length_N=np.array(lengths),
        is_empty=tuple((a.is_empty, b.is_empty) for a, b in read_pairs),
    )


class _ReadReply(NamedTuple):
    columns: Indices
    words: int
    is_empty: bool


class _Reader:
    """Reads replies, and numbers their features in the order in which they come up."""

    def __init__(self, language: str) -> None:
        self.columns: dict[str, int] = {}
        tests = measured(language) | {"empty": Proposition(question="Is it empty?")}
        compiled = {id: compile_test(id, proposition, id) for id, proposition in tests.items()}
        self._tests = {id: test for id, test in compiled.items() if test is not None}
        patterns = [
            pattern
            for test in self._tests.values()
            if isinstance(test, ReplyPatterns)
            for pattern in test.patterns
        ]
        self._prefilter = Prefilter(patterns)

    def __call__(self, prompt: str, response: str) -> _ReadReply:
        reply = normalize_reply(prompt, response[:MAX_TEXT], self._prefilter)
        features = dict.fromkeys(ngrams(reply.unquoted))
        features |= dict.fromkeys(measured_name(id) for id in self._holding(reply))
        columns = [self.columns.setdefault(name, len(self.columns)) for name in features]
        is_empty = self._tests["empty"](reply) == 1
        return _ReadReply(np.array(sorted(columns), dtype=np.int64), len(reply.words), is_empty)

    def _holding(self, reply: NormalizedReply) -> Iterable[str]:
        return (id for id, test in self._tests.items() if id != "empty" and test(reply) == 1)


def _of_several_sources(replies: Sequence[_ReadReply], sources: Indices) -> Indices:
    """The columns that occur in replies of at least `MIN_SOURCES` sources."""
    sizes = [len(reply.columns) for reply in replies]
    columns = np.concatenate([reply.columns for reply in replies])
    pairs = np.unique(np.column_stack([columns, np.repeat(sources, sizes)]), axis=0)
    return np.flatnonzero(np.bincount(pairs[:, 0]) >= MIN_SOURCES)


def _matrix(replies: Sequence[_ReadReply], new_column: Indices, width: int) -> Any:
    from scipy.sparse import csr_matrix  # slow to import

    rows = [new_column[reply.columns] for reply in replies]
    rows = [np.sort(row[row >= 0]) for row in rows]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.concatenate(rows) if rows else np.array([], dtype=np.int64)
    values = np.ones(len(columns))
    return csr_matrix((values, columns, starts), shape=(len(replies), width))
