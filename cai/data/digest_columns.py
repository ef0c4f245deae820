"""Columns of numbers on disk, one per digest, that are written in blocks and loaded one at a time.

The signatures are the only column with several numbers a row; they are read row by row.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cai.data.filters import HygieneConfig
from cai.data.judged_rows import SIGNATURES, Outcomes, digest_names
from cai.data.minhash import PERMUTATIONS, Array
from cai.files import write_errors

ROW_BYTES = PERMUTATIONS * np.dtype(np.uint32).itemsize


class DigestColumns:
    """The digests of all rows, in a folder."""

    def __init__(self, folder: Path, config: HygieneConfig) -> None:
        self.folder = folder
        self.names = digest_names(config)
        self.files = {name: (folder / name).open("w+b") for name in self.names}

    def add(self, outcomes: Outcomes) -> None:
        with write_errors(self.folder):
            for name in self.names:
                outcomes.digests[name].tofile(self.files[name])

    def load(self, name: str) -> Array:
        """(N,) the digests of one column."""
        self.files[name].flush()
        return np.fromfile(self.folder / name, np.uint64)

    def load_signatures(self, indices: Array) -> Array:
        """(len(indices), PERMUTATIONS), read rather than mapped: mapped pages count as memory."""
        signatures = np.empty((len(indices), PERMUTATIONS), np.uint32)
        target = signatures.reshape(-1).view(np.uint8).data
        file = self.files[SIGNATURES].fileno()
        for row, index in enumerate(indices.tolist()):
            os.preadv(file, [target[row * ROW_BYTES : (row + 1) * ROW_BYTES]], index * ROW_BYTES)
        return signatures

    def close(self) -> None:
        for file in self.files.values():
            file.close()
