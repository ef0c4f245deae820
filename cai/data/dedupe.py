"""Prompts in, prompts out, and a count of reasons: two passes over the files, a few bytes a prompt in between.

The first pass judges each prompt on its own and writes its digests into columns on disk. Between the passes the columns are
compared, one in memory at a time. The second pass reads the files again and writes what stays. Memory does not grow with texts.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cai.data.filters import HygieneConfig, Rules, SaidT, key, shingles, told
from cai.records import Prompt, TrainingChat

PERMUTATIONS, BANDS = 64, 16
"""Of MinHash: 16 bands of 4 find four pairs of five at a likeness of 0.6, and 999 of 1,000 at 0.8."""
BLOCK = 1 << 14
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Cleaned:
    """What happened to each prompt, by its place in the input."""

    reasons: list[str]
    """Names of reasons; 0 is no reason: the prompt stays."""
    codes: Array
    """(N,) index into `reasons`."""
    twins: Array
    """(N,) place of the earlier prompt that this one repeats; -1 where there is none."""
    counts: Counter[str] = field(default_factory=Counter)


def clean(
    read: Callable[[], Iterator[SaidT]], config: HygieneConfig, rules: Rules, progress: Callable[[int], None] = lambda done: None
) -> Cleaned:
    """Judge every prompt that `read()` gives. It is called once here, and must give the same rows when it is called again."""
    with tempfile.TemporaryDirectory(prefix="cai-") as folder, closing(_Columns(Path(folder), config)) as columns:
        found = Cleaned([""], np.zeros(0, np.uint16), np.zeros(0, np.int64))
        codes: list[Array] = []
        index = {"": 0}

        def code(reason: str) -> int:
            if reason not in index:
                index[reason] = len(index)
                found.reasons.append(reason)
            return index[reason]

        block: list[int] = []
        for done, prompt in enumerate(read(), 1):
            judged, reason = rules.judge(prompt)
            block.append(code(reason or ""))
            columns.add(judged)
            if len(block) == BLOCK:
                codes.append(np.array(block, np.uint16))
                block = []
                progress(done)
        found.codes = np.concatenate([*codes, np.array(block, np.uint16)])
        found.twins = np.full(len(found.codes), -1, np.int64)
        columns.finish()
        for name, reason, most in (
            ("exact", "repeated", 1),
            ("prefix", "same beginning", 1),
            ("user", "too many of a user", config.per_user),
        ):
            if name in columns.names:
                _repeats(found, columns.column(name), code(reason), most or 1)
        if config.near is not None:
            _near(found, columns, code("nearly repeated"), config.near)
    numbers = np.bincount(found.codes, minlength=len(found.reasons))
    found.counts = Counter({reason or "kept": int(n) for reason, n in zip(found.reasons, numbers, strict=True) if n})
    return found


def kept(read: Callable[[], Iterator[SaidT]], rules: Rules, found: Cleaned) -> Iterator[SaidT]:
    """The second pass: the prompts that stay, masked where that was asked for."""
    for code, prompt in zip(found.codes, read(), strict=True):
        if code == 0:
            yield rules.judge(prompt)[0] if rules.config.pii == "mask" else prompt


class _Columns:
    """One file of numbers per digest; written in blocks, read one at a time."""

    def __init__(self, folder: Path, config: HygieneConfig) -> None:
        self.folder, self.config = folder, config
        self.names = ["exact", *["prefix"] * (config.prefix is not None), *["user"] * (config.per_user is not None)]
        self.names += ["near"] * (config.near is not None)
        self.files = {name: (folder / name).open("wb") for name in self.names}
        self.blocks: dict[str, list[Any]] = {name: [] for name in self.names}

    def add(self, prompt: Prompt | TrainingChat) -> None:
        text = told(prompt)
        self.blocks["exact"].append(key(text))
        if self.config.prefix is not None:
            start = text[: self.config.prefix]
            self.blocks["prefix"].append(key(start) if len(start) == self.config.prefix else 0)
        if self.config.per_user is not None:
            self.blocks["user"].append(key(prompt.user) if prompt.user else 0)
        if self.config.near is not None:
            self.blocks["near"].append(signature(text))
        if len(self.blocks["exact"]) == BLOCK:
            self._flush()

    def _flush(self) -> None:
        for name, block in self.blocks.items():
            np.array(block, np.uint32 if name == "near" else np.uint64).tofile(self.files[name])
            block.clear()

    def finish(self) -> None:
        """Nothing more comes: the columns can be read."""
        self._flush()
        self.close()

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def column(self, name: str) -> Array:
        return np.fromfile(self.folder / name, np.uint64)

    def signatures(self, start: int, count: int) -> Array:
        """(count, permutations), read: a mapped file's pages would count as this process's memory."""
        size = PERMUTATIONS * np.dtype(np.uint32).itemsize
        return np.fromfile(self.folder / "near", np.uint32, count * PERMUTATIONS, offset=start * size).reshape(-1, PERMUTATIONS)


def signature(text: str) -> Array:
    """MinHash of a text's word shingles: the share of equal places estimates the Jaccard likeness."""
    from datasketch import MinHash

    hashed = MinHash(num_perm=PERMUTATIONS, seed=1)
    hashed.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in shingles(text)])
    values: Array = hashed.hashvalues.astype(np.uint32)
    return values


def _groups(keys: Array, places: Array) -> Iterator[Array]:
    """Places with equal keys, two at least, each group in the order of the input."""
    order = places[np.argsort(keys, kind="stable")]
    values = np.sort(keys, kind="stable")
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if len(values) else np.zeros(0, np.int64)
    ends = np.r_[starts[1:], len(values)]
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        yield order[start:end]


def _repeats(found: Cleaned, column: Array, code: int, most: int) -> None:
    """Of the prompts still in with the same number (0 is none), the first `most` stay."""
    places = np.flatnonzero((found.codes == 0) & (column != 0))
    for group in _groups(column[places], places):
        found.codes[group[most:]] = code
        found.twins[group[most:]] = group[0]


def _near(found: Cleaned, columns: _Columns, code: int, threshold: float) -> None:
    """Prompts that share a band are compared with the first and the one before them in it."""
    width = PERMUTATIONS // BANDS
    for band in range(BANDS):
        keys = np.empty(len(found.codes), np.uint64)
        for start in range(0, len(keys), BLOCK):
            part = columns.signatures(start, BLOCK)[:, band * width : (band + 1) * width]
            keys[start : start + BLOCK] = _mixed(part)
        places = np.flatnonzero(found.codes == 0)
        for group in _groups(keys[places], places):
            first = previous = columns.signatures(group[0], 1)
            for before, place in pairwise(group):
                current = columns.signatures(place, 1)
                for other, signature_of in ((group[0], first), (before, previous)):
                    if np.mean(signature_of == current) >= threshold:
                        found.codes[place], found.twins[place] = code, other
                        break
                previous = current


def _mixed(part: Array) -> Array:
    """(N, k) 32-bit numbers as (N,) 64-bit ones."""
    mixed = np.zeros(len(part), np.uint64)
    for column in part.T:
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    return mixed
