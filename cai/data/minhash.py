"""MinHash signatures of texts, and the keys by which similar ones are brought together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cai.data.words import SHINGLE_WORDS, runs, words_of

PERMUTATIONS, BANDS = 64, 16
"""MinHash parameters. 16 bands of 4 hashes detect 80 % of pairs with a Jaccard similarity of 0.6,
and 99.9 % of pairs with one of 0.8."""
Array = np.ndarray[Any, np.dtype[Any]]


def signatures(texts: Sequence[str]) -> Array:
    """(N, PERMUTATIONS), uint32: MinHash of each text's word shingles.

    The share of equal entries in two signatures estimates the Jaccard similarity of the shingles.
    """
    return signatures_of_shingles([shingle_bytes(words_of(text)) for text in texts])


def shingle_bytes(words: Sequence[str]) -> list[bytes]:
    """The word shingles of a text, encoded. Repeated ones stay: they change no signature."""
    return [shingle.encode("utf-8", "surrogatepass") for shingle in runs(words, SHINGLE_WORDS)]


def signatures_of_shingles(shingles_of_texts: Sequence[list[bytes]]) -> Array:
    """(N, PERMUTATIONS), uint32: as `signatures`, from shingles that are at hand."""
    from rensa import RMinHash

    matrix = RMinHash.digest_matrix_from_token_byte_sets(shingles_of_texts, PERMUTATIONS, 1)
    return np.array(matrix.to_rows(), np.uint32).reshape(-1, PERMUTATIONS)


def band_keys(signature_rows: Array) -> Array:
    """(BANDS, N), uint64: one key per text for each band of its signature."""
    bands = signature_rows.reshape(len(signature_rows), BANDS, PERMUTATIONS // BANDS)
    keys = np.zeros((BANDS, len(signature_rows)), np.uint64)
    for position in range(bands.shape[2]):
        keys = (keys ^ bands[:, :, position].T.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    return keys
