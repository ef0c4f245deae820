"""The null rows of a file tool: how many there are, why, and which are worth asking again."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from cai.errors import is_passing
from cai.report.formats import shorten_reason

MOST_REASONS = 10
"""Reasons that are listed: they may quote a server, and then no two are equal."""


def null_reason(fields: Mapping[str, Any], prefix: str = "") -> str | None:
    """Why a row with these fields is null; None: it is not.

    Args:
        prefix: beginning of the names of the fields that the file tool added.
    """
    reason = fields.get(f"{prefix}dropped") or fields.get(f"{prefix}unscored")
    return reason if isinstance(reason, str) else None


def print_null_rows(command: str, reasons: Counter[str | None]) -> None:
    """A line on how many rows are null, and a line for each reason, on standard error.

    Args:
        reasons: reason -> rows; None: those that are not null.
    """
    rows = reasons.total()
    counts = Counter({reason: n for reason, n in reasons.items() if reason is not None and n})
    if not counts:
        return
    passing = sum(count for reason, count in counts.items() if is_passing(reason))
    hint = f"; run the command again to ask again for {passing} of them" if passing else ""
    lines = [f"{counts.total()} of {rows} rows are null{hint}"]
    most = counts.most_common(MOST_REASONS)
    lines += [f"{count} null: {shorten_reason(reason)}" for reason, count in most]
    if others := counts.total() - sum(count for _, count in most):
        lines.append(f"{others} null: for other reasons")
    for line in lines:
        print(f"{command}: {line}", file=sys.stderr)
