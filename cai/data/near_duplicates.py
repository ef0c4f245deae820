"""Texts that come one by one, each compared with all before it: for thousands of them, not for millions (`clean` is)."""

from __future__ import annotations

import numpy as np

from cai.data.dedupe import PERMUTATIONS, Array, signature


class NearDuplicates:
    """Remembers texts that are unlike all earlier ones.

    Args:
        near: estimated Jaccard likeness of word shingles from which two texts are alike.
    """

    def __init__(self, near: float) -> None:
        self.near = near
        self.count = 0
        self._signatures: Array = np.empty((64, PERMUTATIONS), np.uint32)

    def seen(self, text: str) -> bool:
        """Whether an earlier text is like this one. If not, this one is remembered."""
        made = signature(text)
        if self.count and float((self._signatures[: self.count] == made).mean(axis=1).max()) >= self.near:
            return True
        if self.count == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[self.count] = made
        self.count += 1
        return False
