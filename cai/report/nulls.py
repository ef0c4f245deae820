"""The null rows of a run, by stage and reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from cai.artifacts import PAIRS, PREFERENCES, REPLIES, REVISIONS
from cai.errors import is_passing
from cai.generate.unanswered import null_reason
from cai.records import EvalReply, Pair, Preference, Revision, Row
from cai.report.formats import shorten_reason
from cai.store import read_rows

STAGES: tuple[tuple[str, str, type[Row]], ...] = (
    ("revise", REVISIONS, Revision),
    ("pair", PAIRS, Pair),
    ("label", PREFERENCES, Preference),
    ("eval", REPLIES, EvalReply),
)
"""(stage, its file, kind of its rows)"""
MOST_REASONS = 10
"""Reasons listed for a stage: they may quote a server, and then no two are equal."""


class NullRows(NamedTuple):
    """Rows of one stage that are null for one reason."""

    stage: str
    reason: str
    null: int
    rows: int
    """All rows of the stage."""
    passing: bool
    """Whether the stage asks for them again when it is run again."""


def null_rows(folder: Path) -> list[NullRows]:
    """The null rows of each stage whose file is there; the most frequent reasons first."""
    table: list[NullRows] = []
    for stage, name, kind in STAGES:
        if not (folder / name).exists():
            continue
        reasons = Counter(null_reason(row) for row in read_rows(folder / name, kind))
        rows = reasons.total()
        reasons.pop(None, None)
        most = reasons.most_common(MOST_REASONS)
        table += [
            NullRows(stage, shorten_reason(reason), count, rows, is_passing(reason))
            for reason, count in most
            if reason is not None
        ]
        if others := reasons.total() - sum(count for _, count in most):
            table.append(NullRows(stage, "other reasons", others, rows, False))
    return table
