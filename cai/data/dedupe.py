"""Two-pass filtering and deduplication of prompts, with a reason for every prompt that is dropped.

The first pass judges each prompt alone and writes its digests to columns on disk. Between the
passes the columns are compared, with one column in memory at a time. The second pass yields the
prompts that stay, from the files or from lines that the first pass wrote. Memory use is a few bytes
a prompt; it does not grow with the length of the texts.
"""

from __future__ import annotations

import gc
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from cai.data.digest_columns import DigestColumns
from cai.data.filter_processes import judged_blocks
from cai.data.filters import ConversationT, HygieneConfig, PromptFilters
from cai.data.judged_rows import BAND_NAMES, Outcomes
from cai.data.minhash import Array
from cai.files import write_errors

COMPARED = 1 << 13
"""Pairs of signatures that are compared at a time."""


@dataclass
class Cleaned:
    """The outcome for each prompt, by its index in the input."""

    reasons: list[str]
    """Names of reasons; the first one is empty: the prompt stays."""
    codes: Array
    """(N,) index into `reasons`."""
    duplicate_of: Array
    """(N,) index of the earlier prompt that this one repeats; -1 if there is none."""
    masked: Array
    """(N,), bool: whether the prompt holds personal data that is masked."""
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
    lines: BinaryIO | None = None,
) -> Cleaned:
    """The outcome for every prompt that `read()` yields.

    Args:
        read: opens the input. It is called once, and must yield the same rows on every call.
        rules: the filters of `config` for single prompts.
        progress: called with the number of prompts judged, after each block but the last.
        lines: a file for all prompts, masked if necessary, from which `kept_lines` reads.
    """
    with (
        tempfile.TemporaryDirectory(prefix="cai-") as folder,
        closing(DigestColumns(Path(folder), config)) as columns,
        closing(_written(read(), rules, lines)) as blocks,
    ):
        with _no_full_collection():
            cleaned = _judge_all(blocks, columns, progress)
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
    for code, is_masked, prompt in zip(cleaned.codes, cleaned.masked, read(), strict=True):
        if code == 0:
            yield rules.masked(prompt) if is_masked else prompt


def kept_lines(lines: BinaryIO, cleaned: Cleaned) -> Iterator[bytes]:
    """The second pass: the lines of the prompts that stay, as `Prompt.line` gives them."""
    lines.seek(0)
    for code, line in zip(cleaned.codes, lines, strict=True):
        if code == 0:
            yield line


@contextmanager
def _no_full_collection() -> Iterator[None]:
    """Python looks for garbage in all objects again and again while rows are made, which takes a
    sixth of the time: there are many, of modules and models, and rows leave nothing to be found.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _written(
    prompts: Iterator[Any], rules: PromptFilters, lines: BinaryIO | None
) -> Generator[Outcomes, None, None]:
    """The outcomes of all blocks; meanwhile the prompts are written to `lines`."""
    with closing(judged_blocks(prompts, rules)) as blocks:
        for rows, outcomes in blocks:
            if lines is not None:
                with write_errors(Path(tempfile.gettempdir())):
                    for row, is_masked in zip(rows, outcomes.masked, strict=True):
                        prompt = rules.masked(row) if is_masked else row
                        lines.write(prompt.line().encode() + b"\n")
            yield outcomes


def _judge_all(
    blocks: Iterator[Outcomes], columns: DigestColumns, progress: Callable[[int], None]
) -> Cleaned:
    """The first pass: the reason of every prompt, with its digests written to `columns`."""
    cleaned = Cleaned([""], np.zeros(0, np.uint16), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    codes, masked = [cleaned.codes], [cleaned.masked]
    done = 0
    for outcomes in blocks:
        if done:  # short inputs need no progress
            progress(done)
        code_of = np.array([cleaned.code(name) for name in outcomes.reasons], np.uint16)
        codes.append(code_of[outcomes.codes])
        masked.append(outcomes.masked)
        columns.add(outcomes)
        done += len(outcomes.codes)
        gc.collect(1)  # of what this block left over
    cleaned.codes, cleaned.masked = np.concatenate(codes), np.concatenate(masked)
    cleaned.duplicate_of = np.full(len(cleaned.codes), -1, np.int64)
    return cleaned


class _Groups(NamedTuple):
    """Rows brought together by equal keys; the rows of a group are in the order of the input."""

    rows: Array
    """(N,) indices of rows, group by group."""
    starts: Array
    """(N,) positions in `rows` of the first row of each one's group."""

    @property
    def ranks(self) -> Array:
        """(N,) how many rows of its group come before each row."""
        return np.arange(len(self.rows)) - self.starts


def _groups(keys: Array, rows: Array) -> _Groups:
    order = np.argsort(keys, kind="stable")
    values = keys[order]
    is_first = np.ones(len(values), np.bool_)
    is_first[1:] = values[1:] != values[:-1]
    starts = np.maximum.accumulate(np.where(is_first, np.arange(len(values)), 0))
    return _Groups(rows[order], starts)


def _drop_repeats(cleaned: Cleaned, column: Array, reason: str, limit: int) -> None:
    """Keep the first `limit` of the remaining prompts with the same digest (0: no digest)."""
    code = cleaned.code(reason)
    rows = np.flatnonzero((cleaned.codes == 0) & (column != 0))
    groups = _groups(column[rows], rows)
    is_dropped = groups.ranks >= limit
    dropped = groups.rows[is_dropped]
    cleaned.codes[dropped] = code
    cleaned.duplicate_of[dropped] = groups.rows[groups.starts[is_dropped]]


def _drop_near_duplicates(
    cleaned: Cleaned, columns: DigestColumns, reason: str, threshold: float
) -> None:
    """Locality-sensitive hashing.

    A prompt is compared with the first and the preceding prompt that share a band with it.
    """
    code = cleaned.code(reason)
    for band in BAND_NAMES:
        rows = np.flatnonzero(cleaned.codes == 0)
        groups = _groups(columns.load(band)[rows], rows)
        repeated = np.flatnonzero(groups.ranks > 0)
        for start in range(0, len(repeated), COMPARED):
            positions = repeated[start : start + COMPARED]
            later = groups.rows[positions]
            first, previous = groups.rows[groups.starts[positions]], groups.rows[positions - 1]
            similarity_to = _similarities(columns, later, (first, previous))
            like_first, like_previous = (values >= threshold for values in similarity_to)
            dropped = like_first | like_previous
            cleaned.codes[later[dropped]] = code
            cleaned.duplicate_of[later[dropped]] = np.where(like_first, first, previous)[dropped]


def _similarities(columns: DigestColumns, rows: Array, others: tuple[Array, ...]) -> list[Array]:
    """(N,) the similarities of `rows` to the rows of each of `others`, one by one."""
    loaded = np.unique(np.concatenate([rows, *others]))
    signatures = columns.load_signatures(loaded)
    current = signatures[np.searchsorted(loaded, rows)]
    return [
        np.mean(signatures[np.searchsorted(loaded, other)] == current, axis=1) for other in others
    ]
