"""The text models of a rubric, applied to many texts at once.

A text is split into words once for all models. Words are numbered, and an n-gram is one integer:

    code of a pair = number of its first word · count + number of its second
    code of a word = its number, as that of a pair whose first word has number 0

A word that no model knows has number 0, and a pair with such a word is no known n-gram. The sums of
a text run over its n-grams in the order of their codes, whatever other texts are in the batch. So
its probabilities are the same alone and among others, to the last bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cai.constitution.schema import TextModel
from cai.probability import sigmoid

WORD = re.compile(r"[\w']+")
_END_NUMBER = -1
"""Stands after the numbers of each text."""
_MAX_LENGTH = 30
_MAX_REMEMBERED = 200_000
"""That many texts, of up to `_MAX_LENGTH` characters, are remembered."""
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class TextModels:
    """Several models; the formula is that of `text_classifier`."""

    def __init__(self, models: Sequence[TextModel]) -> None:
        words_of = {
            ngram: words
            for ngram in {ngram for model in models for ngram in model.weights}
            if all(map(WORD.fullmatch, words := ngram.split(" "))) and len(words) <= 2
        }
        vocabulary = sorted({word for words in words_of.values() for word in words})
        numbers = {word: number for number, word in enumerate(vocabulary, 1)}
        self._count = len(numbers) + 1
        self._pieces = Remembered(
            lambda piece: tuple(numbers.get(word, 0) for word in WORD.findall(piece))
        )
        ngrams = {self._code(words, numbers): ngram for ngram, words in words_of.items()}
        self._codes = np.array([0, *sorted(ngrams)], dtype=np.int64)  # 0 is no n-gram's
        in_order = [ngrams[code] for code in sorted(ngrams)]
        self._tables = [(model.bias, *_tables(model, in_order)) for model in models]

    def _code(self, words: Sequence[str], numbers: Mapping[str, int]) -> int:
        first = numbers[words[0]] if len(words) == 2 else 0
        return first * self._count + numbers[words[-1]]

    def probabilities(self, texts: Sequence[Sequence[str]]) -> list[tuple[float, ...]]:
        """P(the proposition holds) by each model, of each text.

        Args:
            texts: normalised, each split at its spaces.
        """
        if not self._tables:
            return [()] * len(texts)
        return [tuple(map(sigmoid, row)) for row in self.log_odds(texts).tolist()]

    def log_odds(self, texts: Sequence[Sequence[str]]) -> Floats:
        """(texts, models): the log-odds of `probabilities`."""
        scores = np.empty((len(texts), len(self._tables)))
        if not self._tables:
            return scores
        text_of, ngrams = self._known_ngrams(texts)
        for column, (bias, products, squares) in enumerate(self._tables):
            total = np.bincount(text_of, products[ngrams], len(texts))
            length = np.sqrt(np.bincount(text_of, squares[ngrams], len(texts)))
            length[length == 0] = 1.0  # no known n-gram: the total is 0
            scores[:, column] = bias + total / length
        return scores

    def _known_ngrams(self, texts: Sequence[Sequence[str]]) -> tuple[Integers, Integers]:
        """The different n-grams of each text: which text, and the row of the n-gram in the tables.

        N-grams that no model knows have row 0.
        """
        numbers_of = self._pieces.__getitem__
        in_texts = (chain(map(numbers_of, text), ((_END_NUMBER,),)) for text in texts)
        numbers = np.fromiter(chain.from_iterable(chain.from_iterable(in_texts)), dtype=np.int64)
        is_end = numbers == _END_NUMBER
        numbers[is_end] = 0
        text_of = np.cumsum(is_end) - is_end
        codes = np.concatenate([numbers, numbers[:-1] * self._count + numbers[1:]])
        text_of = np.concatenate([text_of, text_of[1:]])
        keys = np.sort(text_of * self._count**2 + codes)
        keys = keys[np.diff(keys, prepend=-1) > 0]
        text_of, codes = np.divmod(keys, self._count**2)
        rows = np.searchsorted(self._codes, codes)
        rows[rows == len(self._codes)] = 0
        rows[self._codes[rows] != codes] = 0
        return text_of, rows


class Remembered(dict[str, tuple[int, ...]]):
    """Text -> what a function makes of it; filled as texts come, with short ones only."""

    def __init__(self, function: Callable[[str], tuple[int, ...]]) -> None:
        self._function = function

    def __missing__(self, text: str) -> tuple[int, ...]:
        value = self._function(text)
        if len(text) <= _MAX_LENGTH:
            if len(self) >= _MAX_REMEMBERED:
                self.clear()
            self[text] = value
        return value


def _tables(model: TextModel, ngrams: Sequence[str]) -> tuple[Floats, Floats]:
    """idf · weight, and idf², of each n-gram; 0 of those that the model does not know.

    Row 0 is that of all n-grams which no model knows.
    """
    idf = [model.idf.get(ngram, 1.0) if ngram in model.weights else 0.0 for ngram in ngrams]
    weights = [model.weights.get(ngram, 0.0) for ngram in ngrams]
    return (
        np.array([0.0, *(w * i for w, i in zip(weights, idf, strict=True))]),
        np.array([0.0, *(i**2 for i in idf)]),
    )
