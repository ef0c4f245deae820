"""Two-pass filtering and deduplication of prompts, with a reason for every prompt that is dropped.

The first pass judges each prompt alone and writes its digests to columns on disk. Between the
passes the columns are compared, with one column in memory at a time. The second pass reads the
files again and yields the prompts that stay. Memory use is a few bytes a prompt; it does not grow
with the length of the texts.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cai.data.filters import (
    ConversationT,
    HygieneConfig,
    PromptFilters,
    compared_text,
    conversation_text,
    hash64,
    shingles,
)
from cai.records import Prompt, TrainingChat

PERMUTATIONS, BANDS = 64, 16
"""MinHash parameters. 16 bands of 4 hashes detect 80 % of pairs with a Jaccard similarity of 0.6,
and 99.9 % of pairs with one of 0.8."""
BLOCK = 1 << 14
"""Rows written or loaded at a time."""
TEXTS = 1 << 10
"""Texts that are hashed together: their shingles are in memory at once."""
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Cleaned:
    """The outcome for each prompt, by its index in the input."""

    reasons: list[str]
    """Names of reasons; the first one is empty: the prompt stays."""
    codes: Array
    """(N,) index into `reasons`."""
    duplicate_of: Array
    """(N,) index of the earlier prompt that this one repeats; -1 if there is none."""
    counts: Counter[str] = field(default_factory=Counter)
    """Reason (or "kept") -> prompts."""

    def code(self, reason: str) -> int:
        """The index of `reason` in `reasons`, which it is added to if necessary."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason)


def clean(
    read: Callable[[], Iterator[ConversationT]],
    config: HygieneConfig,
    rules: PromptFilters,
    progress: Callable[[int], None] = lambda done: None,
) -> Cleaned:
    """The outcome for every prompt that `read()` yields.

    Args:
        read: opens the input. It is called once, and must yield the same rows on every call.
        rules: the filters of `config` for single prompts.
        progress: called with the number of prompts judged, once a block.
    """
    with (
        tempfile.TemporaryDirectory(prefix="cai-") as folder,
        closing(_Columns(Path(folder), config)) as columns,
    ):
        cleaned = _judge_all(read(), rules, columns, progress)
        for name, reason, limit in (
            ("exact", "repeated", 1),
            ("prefix", "same beginning", 1),
            ("user", "too many of a user", config.per_user or 1),
        ):
            if name in columns.names:
                _drop_repeats(cleaned, columns.load(name), reason, limit)
        if config.near is not None:
            _drop_near_duplicates(cleaned, columns, "nearly repeated", config.near)
    totals = np.bincount(cleaned.codes, minlength=len(cleaned.reasons))
    cleaned.counts = Counter(
        {
            reason or "kept": int(total)
            for reason, total in zip(cleaned.reasons, totals, strict=True)
            if total
        }
    )
    return cleaned


def filtered_prompts(
    read: Callable[[], Iterator[ConversationT]], rules: PromptFilters, cleaned: Cleaned
) -> Iterator[ConversationT]:
    """The second pass: the prompts that stay, masked where the configuration says so."""
    for code, prompt in zip(cleaned.codes, read(), strict=True):
        if code == 0:
            yield rules.judge(prompt)[0] if rules.config.pii == "mask" else prompt


def _judge_all(
    prompts: Iterator[ConversationT],
    rules: PromptFilters,
    columns: _Columns,
    progress: Callable[[int], None],
) -> Cleaned:
    """The first pass: the reason of every prompt, with its digests written to `columns`."""
    cleaned = Cleaned([""], np.zeros(0, np.uint16), np.zeros(0, np.int64))
    codes: list[Array] = []
    block: list[int] = []
    for done, prompt in enumerate(prompts, 1):
        judged, reason = rules.judge(prompt)
        block.append(cleaned.code(reason or ""))
        columns.add(judged)
        if len(block) == BLOCK:
            codes.append(np.array(block, np.uint16))
            block = []
            progress(done)
    cleaned.codes = np.concatenate([*codes, np.array(block, np.uint16)])
    cleaned.duplicate_of = np.full(len(cleaned.codes), -1, np.int64)
    columns.finish()
    return cleaned


class _Columns:
    """One file of numbers per digest, written in blocks and loaded one at a time."""

    def __init__(self, folder: Path, config: HygieneConfig) -> None:
        self.folder = folder
        self.config = config
        self.names = ["exact"]
        for name, setting in (
            ("prefix", config.prefix),
            ("user", config.per_user),
            ("near", config.near),
        ):
            if setting is not None:
                self.names.append(name)
        self.files = {name: (folder / name).open("wb") for name in self.names}
        self.blocks: dict[str, list[int]] = {name: [] for name in self.names if name != "near"}
        self.texts: list[str] = []

    def add(self, prompt: Prompt | TrainingChat) -> None:
        self.blocks["exact"].append(hash64(conversation_text(prompt)))
        text = compared_text(prompt)
        if self.config.prefix is not None:
            prefix = text[: self.config.prefix]
            complete = len(prefix) == self.config.prefix
            self.blocks["prefix"].append(hash64(prefix) if complete else 0)
        if self.config.per_user is not None:
            self.blocks["user"].append(hash64(prompt.user) if prompt.user else 0)
        if self.config.near is not None:
            self.texts.append(text)
            if len(self.texts) == TEXTS:
                self._write_signatures()
        if len(self.blocks["exact"]) == BLOCK:
            self._flush()

    def _flush(self) -> None:
        for name, block in self.blocks.items():
            np.array(block, np.uint64).tofile(self.files[name])
            block.clear()

    def _write_signatures(self) -> None:
        signatures(self.texts).tofile(self.files["near"])
        self.texts.clear()

    def finish(self) -> None:
        """Write the last block; the columns can be loaded from now on."""
        self._flush()
        if self.texts:
            self._write_signatures()
        self.close()

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def load(self, name: str) -> Array:
        """(N,) the digests of one column."""
        return np.fromfile(self.folder / name, np.uint64)

    def load_signatures(self, start: int, count: int) -> Array:
        """(count, PERMUTATIONS), read rather than mapped: mapped pages would count as memory."""
        offset = start * PERMUTATIONS * np.dtype(np.uint32).itemsize
        values = np.fromfile(self.folder / "near", np.uint32, count * PERMUTATIONS, offset=offset)
        return values.reshape(-1, PERMUTATIONS)


def signatures(texts: Sequence[str]) -> Array:
    """(N, PERMUTATIONS), uint32: MinHash of each text's word shingles.

    The share of equal entries in two signatures estimates the Jaccard similarity of the shingles.
    """
    from rensa import RMinHash

    shingles_of = [[s.encode("utf-8", "surrogatepass") for s in shingles(text)] for text in texts]
    matrix = RMinHash.digest_matrix_from_token_byte_sets(shingles_of, PERMUTATIONS, 1)
    return np.array(matrix.to_rows(), np.uint32).reshape(-1, PERMUTATIONS)


def _groups(keys: Array, indices: Array) -> Iterator[Array]:
    """Indices with equal keys, two or more, each group in the order of the input."""
    ordered = indices[np.argsort(keys, kind="stable")]
    values = np.sort(keys, kind="stable")
    starts = np.zeros(0, np.int64)
    if len(values):
        starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    ends = np.r_[starts[1:], len(values)]
    repeated = ends - starts > 1
    for start, end in zip(starts[repeated], ends[repeated], strict=True):
        yield ordered[start:end]


def _drop_repeats(cleaned: Cleaned, column: Array, reason: str, limit: int) -> None:
    """Keep the first `limit` of the remaining prompts with the same digest (0: no digest)."""
    code = cleaned.code(reason)
    indices = np.flatnonzero((cleaned.codes == 0) & (column != 0))
    for group in _groups(column[indices], indices):
        cleaned.codes[group[limit:]] = code
        cleaned.duplicate_of[group[limit:]] = group[0]


def _drop_near_duplicates(
    cleaned: Cleaned, columns: _Columns, reason: str, threshold: float
) -> None:
    """Locality-sensitive hashing.

    A prompt is compared with the first and the preceding prompt that share a band with it.
    """
    code = cleaned.code(reason)
    for band in range(BANDS):
        keys = _band_keys(columns, band, len(cleaned.codes))
        indices = np.flatnonzero(cleaned.codes == 0)
        for group in _groups(keys[indices], indices):
            first = columns.load_signatures(group[0], 1)
            previous = first
            for previous_index, index in pairwise(group):
                current = columns.load_signatures(index, 1)
                for other_index, other in ((group[0], first), (previous_index, previous)):
                    if np.mean(other == current) >= threshold:
                        cleaned.codes[index] = code
                        cleaned.duplicate_of[index] = other_index
                        break
                previous = current


def _band_keys(columns: _Columns, band: int, count: int) -> Array:
    """(count,) one 64-bit key per prompt for one band of its signature."""
    width = PERMUTATIONS // BANDS
    keys = np.empty(count, np.uint64)
    for start in range(0, count, BLOCK):
        signatures = columns.load_signatures(start, BLOCK)
        keys[start : start + BLOCK] = _mix(signatures[:, band * width : (band + 1) * width])
    return keys


def _mix(values: Array) -> Array:
    """(N, k) 32-bit numbers hashed to (N,) 64-bit ones."""
    mixed = np.zeros(len(values), np.uint64)
    for column in values.T:
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    return mixed
