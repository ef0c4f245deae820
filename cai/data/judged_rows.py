"""The outcomes of a block of rows: what the filters say of each, and what it is compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cai.data.filters import (
    ConversationT,
    HygieneConfig,
    PromptFilters,
    compared_text,
    conversation_text,
)
from cai.data.minhash import (
    BANDS,
    PERMUTATIONS,
    Array,
    band_keys,
    shingle_bytes,
    signatures_of_shingles,
)
from cai.data.words import hash64, words_of
from cai.records import Prompt, TrainingChat

SIGNATURES = "signatures"
BAND_NAMES = tuple(f"band-{band}" for band in range(BANDS))


@dataclass(frozen=True)
class Outcomes:
    """What the filters say of N rows."""

    reasons: tuple[str, ...]
    """Names of reasons; the first one is empty: the row stays."""
    codes: Array
    """(N,), uint16: index into `reasons`."""
    masked: Array
    """(N,), bool: whether personal data was masked."""
    digests: dict[str, Array]
    """Column -> (N,), uint64, by which rows are compared with one another; 0: no comparison.

    `SIGNATURES` is (N, PERMUTATIONS), uint32. A row that does not stay has zeros.
    """


def digest_names(config: HygieneConfig) -> list[str]:
    """Names of the columns in `Outcomes.digests`."""
    names = ["exact"]
    if config.prefix is not None:
        names.append("prefix")
    if config.per_user is not None:
        names.append("user")
    if config.near is not None:
        names += [SIGNATURES, *BAND_NAMES]
    return names


def judge_rows(
    rows: Sequence[ConversationT], lengths: Sequence[int | None], rules: PromptFilters
) -> Outcomes:
    """The outcomes of a block of rows.

    Args:
        lengths: tokens of each row, where the filters need them; see `PromptFilters.lengths`.
    """
    index_of: dict[str, int] = {"": 0}
    codes = np.zeros(len(rows), np.uint16)
    masked = np.zeros(len(rows), np.bool_)
    digests: dict[str, Array] = {
        name: np.zeros(len(rows), np.uint64) for name in digest_names(rules.config)
    }
    shingles_of_kept: list[list[bytes]] = []
    words = cache(words_of)  # the filter and the shingles look at words of the same texts
    reasons = rules.reasons(rows, lengths, words)
    for index, (row, reason) in enumerate(zip(rows, reasons, strict=True)):
        judged = row
        if reason is None:
            judged, reason = rules.without_personal_data(row)
        if reason:
            codes[index] = index_of.setdefault(reason, len(index_of))
            continue
        masked[index] = judged is not row
        for name, digest in _digests(judged, rules.config):
            digests[name][index] = digest
        if rules.config.near is not None:
            shingles_of_kept.append(shingle_bytes(words(compared_text(judged))))
    if rules.config.near is not None:
        signatures = np.zeros((len(rows), PERMUTATIONS), np.uint32)
        signatures[codes == 0] = signatures_of_shingles(shingles_of_kept)
        digests |= {SIGNATURES: signatures}
        digests |= dict(zip(BAND_NAMES, band_keys(signatures), strict=True))
    return Outcomes(tuple(index_of), codes, masked, digests)


def _digests(row: Prompt | TrainingChat, config: HygieneConfig) -> list[tuple[str, int]]:
    """(column, digest of a row) by which repetitions are told."""
    digests = [("exact", hash64(conversation_text(row)))]
    if config.prefix is not None:
        prefix = compared_text(row)[: config.prefix]
        if len(prefix) == config.prefix:
            digests.append(("prefix", hash64(prefix)))
    if config.per_user is not None and row.user:
        digests.append(("user", hash64(row.user)))
    return digests


def save_outcomes(path: Path, outcomes: Outcomes) -> None:
    """Write outcomes for `load_outcomes`, which another process reads."""
    names = np.array(outcomes.reasons, np.str_)
    arrays: dict[str, Any] = {
        f"digest {name}": digests for name, digests in outcomes.digests.items()
    }
    with path.open("wb") as file:
        np.savez(file, reasons=names, codes=outcomes.codes, masked=outcomes.masked, **arrays)


def load_outcomes(path: Path) -> Outcomes:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    digests = {
        name.removeprefix("digest "): array
        for name, array in arrays.items()
        if name.startswith("digest ")
    }
    return Outcomes(tuple(map(str, arrays["reasons"])), arrays["codes"], arrays["masked"], digests)
