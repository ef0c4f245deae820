"""The language of a text by the model of py3langid, and of many texts at once in less time.

The library's model counts features: short sequences of bytes, which an automaton finds. For many
texts the automaton takes one step in all of them at a time, and one product scores them. The sums
are of another order than the library's, so scores differ by rounding. Where that could decide, the
library decides.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from cai.data.minhash import Array

FEW = 64
"""Texts in which steps at a time take no less time than one text after the other."""
BATCH_BYTES = 1 << 18
"""Bytes of texts that are looked at together."""
ROUNDING = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class _Model:
    """The library's model, and its automaton as arrays."""

    identifier: Any
    weights: Array
    """(features, languages)"""
    next_state: Array
    """State after a byte, one row of 256 after the other."""
    row_start: Array
    """(states,) where in `next_state` the row of a state begins."""
    feature: Array
    """(states,) the feature that ends in a state; -1: none."""
    largest_weight: float
    """Without sign."""


def detect_language(text: str) -> str:
    """Two-letter code of the most probable language."""
    code: str = _model().identifier.classify(text)[0]
    return code


def detect_languages(texts: Sequence[str]) -> list[str]:
    """The same of many texts."""
    encoded = [_encoded(text) for text in texts]
    return [
        code
        for batch in _batches([len(data) for data in encoded])
        for code in _detected(texts[batch], encoded[batch])
    ]


def _encoded(text: str) -> bytes:
    """The bytes that the library looks at."""
    cased = text.lower() if text.isupper() else text
    return unicodedata.normalize("NFC", cased).encode("utf-8", "surrogatepass")


def _batches(sizes: Sequence[int]) -> Iterator[slice]:
    """Parts of no more than `BATCH_BYTES`, or of one text."""
    start = total = 0
    for index, size in enumerate(sizes):
        if total and total + size > BATCH_BYTES:
            yield slice(start, index)
            start, total = index, 0
        total += size
    yield slice(start, len(sizes))


def _detected(texts: Sequence[str], encoded: Sequence[bytes]) -> list[str]:
    if len(texts) < FEW:
        return [detect_language(text) for text in texts]
    model = _model()
    scores, errors = _scores(model, _features(model, encoded), len(texts))
    names = model.identifier.nb_classes
    columns = np.argmax(scores, axis=1)
    is_clear = (scores >= (scores.max(axis=1) - errors)[:, None]).sum(axis=1) == 1
    return [
        names[column] if clear else detect_language(text)
        for text, column, clear in zip(texts, columns.tolist(), is_clear.tolist(), strict=True)
    ]


def _features(model: _Model, encoded: Sequence[bytes]) -> Array:
    """`text * model.features + feature` of every feature that ends somewhere in a text."""
    data = np.frombuffer(b"".join(encoded), np.uint8)
    lengths = np.array([len(text) for text in encoded])
    order = np.argsort(-lengths, kind="stable")  # so the texts that go on are the first ones
    positions = (np.cumsum(lengths) - lengths)[order]
    states = np.zeros(len(order), np.uint32)
    parts: list[Array] = []
    # each step is one byte of all texts that have as many, until there are few of them
    steps = int(lengths[order[FEW - 1]])
    for step, count in enumerate(_longer(lengths[order], steps)):
        states = model.next_state[model.row_start[states[:count]] + data[positions[:count] + step]]
        parts.append(_numbered(model, order[:count], model.feature[states]))
    for text, state in zip(order[: FEW - 1].tolist(), states.tolist(), strict=False):
        features = _features_after(model, state, encoded[text][steps:])
        parts.append(_numbered(model, np.intp(text), np.array(features, np.int32)))
    return np.concatenate(parts)


def _longer(lengths: Array, steps: int) -> list[int]:
    """For each step, how many of the falling `lengths` are longer than it."""
    counts: list[int] = np.searchsorted(-lengths, -np.arange(steps)).tolist()
    return counts


def _numbered(model: _Model, texts: Array | np.intp, features: Array) -> Array:
    keys: Array = texts * len(model.weights) + features
    return keys[features >= 0]


def _features_after(model: _Model, state: int, data: bytes) -> list[int]:
    """Of the rest of one text: a step in one text alone takes less time in plain Python."""
    identifier = model.identifier
    features: list[int] = []
    for byte in data:
        state = identifier.tk_nextmove[(identifier.tk_row[state] << 8) + byte]
        features.append(identifier.tk_output[state])
    return features


def _scores(model: _Model, keys: Array, count: int) -> tuple[Array, Array]:
    """((count, languages), the score of each text; (count,), what rounding may change in it).

    A score is the language's prior, and the sum over a text's features of log(1 + times) weight.
    """
    from scipy.sparse import csr_matrix  # late: slow to import

    keys, times = np.unique(keys, return_counts=True)
    texts, features = np.divmod(keys, len(model.weights))
    starts = np.searchsorted(texts, np.arange(count + 1))
    shape = (count, len(model.weights))
    matrix = csr_matrix((np.log1p(times.astype(np.float32)), features, starts), shape)
    prior = model.identifier.nb_pc
    scores: Array = matrix @ model.weights + prior
    # Each sum of n terms, the library's or this one, is wrong by n roundings of the terms' sizes.
    sizes = matrix @ np.full(shape[1], model.largest_weight) + np.abs(prior).max()
    errors: Array = 2 * (np.diff(starts) + 4) * ROUNDING * sizes
    # Without a feature, the library does not look at priors.
    return scores, np.where(np.diff(starts) > 0, errors, np.inf)


@lru_cache(maxsize=1)
def _model() -> _Model:
    """The table is stored as float16, and the library converts what it reads for every text, which
    takes a third of its time: it is converted once.
    """
    from py3langid.langid import MODEL_DIR, MODEL_FILE, LanguageIdentifier
    from py3langid.modelio import load_model

    table, prior, names, next_state, row, output = load_model(MODEL_DIR / MODEL_FILE)
    weights = np.asarray(table, np.float32)
    identifier = LanguageIdentifier(weights, prior, names, next_state, output, tk_row=row)
    return _Model(
        identifier,
        weights,
        np.asarray(next_state),
        np.asarray(row).astype(np.intp) << 8,
        np.array(output, np.int32),
        float(max(-weights.min(), weights.max())),
    )
