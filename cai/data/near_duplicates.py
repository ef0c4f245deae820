"""Near-duplicate detection for a stream of texts, each compared with all earlier ones.

Made for thousands of texts; for millions, use `cai.data.dedupe.clean`.
"""

from __future__ import annotations

import numpy as np

from cai.data.minhash import PERMUTATIONS, Array, signatures


class NearDuplicates:
    """A memory of texts that are not near duplicates of one another.

    Args:
        threshold: estimated Jaccard similarity of word shingles from which two texts are near
            duplicates.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.count = 0
        self._signatures: Array = np.empty((64, PERMUTATIONS), np.uint32)

    def seen(self, text: str) -> bool:
        """Whether an earlier text is a near duplicate. If none is, the text is remembered."""
        [candidate] = signatures([text])
        if self.count:
            similarity = (self._signatures[: self.count] == candidate).mean(axis=1)
            if float(similarity.max()) >= self.threshold:
                return True
        if self.count == len(self._signatures):
            spare = np.empty_like(self._signatures)
            self._signatures = np.concatenate([self._signatures, spare])
        self._signatures[self.count] = candidate
        self.count += 1
        return False
