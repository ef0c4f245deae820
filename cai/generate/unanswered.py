"""Rows that an endpoint left unanswered, for a reason that passes: which they are, and a new try.

A file is replaced as a whole once all its unanswered rows were tried again, so a kill loses
nothing: the answers so far are in the request log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from cai import store
from cai.async_map import InT, RowT, map_in_memory
from cai.errors import is_passing
from cai.generate.row_reuse import set_aside
from cai.records import Row


def null_reason(row: Row) -> str | None:
    """Why a row is null, if it is: a revision, pair, preference, red-team message or graded reply.

    None: it is not.
    """
    graded = getattr(row, "grade", row)
    for name in ("dropped", "unscored", "unanswered"):
        reason: str | None = getattr(graded, name, None)
        if reason is not None:
            return reason
    return None


def unanswered_sources(path: Path, kind: type[RowT], source: Callable[[RowT], str]) -> set[str]:
    """Ids of the inputs of the rows that are worth asking again; none without a file."""
    store.truncate_torn_line(path)
    if not path.exists():
        return set()
    rows = store.read_rows(path, kind)
    return {source(row) for row in rows if is_passing(null_reason(row))}


def set_unanswered_aside(out: Path, kind: type[RowT]) -> int:
    """Move the answered rows aside, if some are not, so that the stage makes only the others."""
    store.truncate_torn_line(out)
    rows = store.read_rows(out, kind) if out.exists() else iter(())
    if not any(is_passing(null_reason(row)) for row in rows):
        return 0
    _, unanswered = set_aside(
        out, kind, lambda row: not is_passing(null_reason(row)), keep_stale=False
    )
    return unanswered


async def ask_again(
    path: Path,
    items: Sequence[InT],
    step: Callable[[InT], Awaitable[RowT]],
    kind: type[RowT],
    *,
    source: Callable[[RowT], str],
    max_concurrency: int = 64,
) -> None:
    """Replace the rows of `items` in the file by what `step` makes of them now.

    The other rows and the order stay. The file is another one afterwards: a lock on the old one
    does not hold it.
    """
    new_rows = await map_in_memory(items, step, max_concurrency=max_concurrency)
    rows = {source(row): row for row in store.read_rows(path, kind)}
    rows |= {item.id: row for item, row in zip(items, new_rows, strict=True)}
    store.atomic_write(path, "".join(row.line() + "\n" for row in rows.values()))
