"""Runs of words that texts share with evaluation texts.

A run is known by the digest of its text. Digests of all runs of all texts take long, so that runs
are looked up by a sum over numbers of their words first, for many texts at a time. Equal runs have
equal sums: only texts with a known sum, and texts shorter than a run, are looked at once more.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np

from cai.data.minhash import Array
from cai.data.words import DIGEST_BYTES, digest64, runs, words_of

FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""By which the number of a word is multiplied for each word after it in the run; odd."""
KNOWN_WORDS = 1 << 15
"""Words whose numbers are remembered."""


class EvaluationRuns:
    """The runs of `length` words in evaluation texts; a shorter text is one run."""

    def __init__(self, length: int, texts: Iterable[str] = ()) -> None:
        self.length = length
        self.digests: set[bytes] = set()
        numbers, sizes = array("I"), array("Q")
        for text in texts:
            words = words_of(text)
            self.digests |= self._digests(words)
            numbers.extend(map(_NUMBERS.__getitem__, words))
            sizes.append(len(words))
        self.sums = np.unique(_sums(numbers, sizes, length)[0])

    def __bool__(self) -> bool:
        return bool(self.digests)

    def overlap(self, words: Sequence[str]) -> bool:
        """Whether a text of these words shares a run."""
        return bool(self.digests) and not self.digests.isdisjoint(self._digests(words))

    def overlaps(self, texts: Sequence[Sequence[str]]) -> list[bool]:
        """The same of many texts."""
        may_overlap = np.array([len(words) < self.length for words in texts], np.bool_)
        may_overlap[self._texts_with_known_sums(texts)] = True
        return [
            may and self.overlap(words)
            for may, words in zip(may_overlap.tolist(), texts, strict=True)
        ]

    def _texts_with_known_sums(self, texts: Sequence[Sequence[str]]) -> Array:
        """The indices of those texts."""
        numbers, sizes = array("I"), array("Q")
        for words in texts:
            numbers.extend(map(_NUMBERS.__getitem__, words))
            sizes.append(len(words))
        sums, of_text = _sums(numbers, sizes, self.length)
        order = np.argsort(sums)  # a search for rising numbers takes a fraction of the time
        sums, of_text = sums[order], of_text[order]
        nearest = np.searchsorted(self.sums[:-1], sums)
        known: Array = of_text[self.sums[nearest] == sums] if len(self.sums) else of_text[:0]
        return known

    def save(self, folder: Path) -> None:
        """Write them for another process."""
        (folder / "digests").write_bytes(b"".join(self.digests))
        (folder / "sums").write_bytes(self.sums.tobytes())

    @classmethod
    def load(cls, folder: Path, length: int) -> EvaluationRuns:
        loaded = cls(length)
        digests = (folder / "digests").read_bytes()
        loaded.digests = {
            digests[start : start + DIGEST_BYTES] for start in range(0, len(digests), DIGEST_BYTES)
        }
        loaded.sums = np.frombuffer((folder / "sums").read_bytes(), np.uint64)
        return loaded

    def _digests(self, words: Sequence[str]) -> set[bytes]:
        return {digest64(run) for run in runs(words, self.length) if run}


class _Numbers(dict[str, int]):
    """Word -> a number, the same in every process; for the last words computed once."""

    def __missing__(self, word: str) -> int:
        if len(self) == KNOWN_WORDS:
            self.clear()
        self[word] = number = crc32(word.encode("utf-8", "surrogatepass"))
        return number


_NUMBERS = _Numbers()


def _sums(numbers: array[int], sizes: array[int], length: int) -> tuple[Array, Array]:
    """((N,) the sum of each run of `length` words, (N,) the index of its text).

    Args:
        numbers: of the words of all texts.
        sizes: how many words each text has.
    """
    count = len(numbers) - length + 1
    if count < 1:
        return np.zeros(0, np.uint64), np.zeros(0, np.intp)
    texts = np.repeat(np.arange(len(sizes)), np.asarray(sizes).astype(np.intp))
    words = np.asarray(numbers).astype(np.uint64)
    sums = np.zeros(count, np.uint64)
    for position in range(length):
        sums *= FACTOR
        sums += words[position : position + count]
    in_one_text = texts[:count] == texts[length - 1 :]
    return sums[in_one_text], texts[:count][in_one_text]
