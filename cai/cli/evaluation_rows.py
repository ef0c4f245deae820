"""The rows of an evaluation on a file: made once, and asked again where there was no answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cai.async_map import InT, RowT

if TYPE_CHECKING:
    from cai.lm import LM
    from cai.records import Score


def evaluated_rows(
    file: Path,
    items: Sequence[InT],
    step: tuple[Callable[[InT], Awaitable[RowT]], type[RowT]],
    lm: LM,
    source: Callable[[RowT], str] = lambda row: str(getattr(row, "source", "")),
    judge: LM | None = None,
) -> list[RowT]:
    """The rows in `file`: new ones, and new tries of those without an answer for now.

    Args:
        step: makes the row of an item; and the type of the rows.
        source: the id of the item that a row is about.
        judge: another model that the step calls; its connections are closed at the end as well.
    """
    from cai import store
    from cai.async_map import map_rows
    from cai.generate.unanswered import ask_again, unanswered_sources
    from cai.progress import progress_bars

    make, kind = step
    unanswered = unanswered_sources(file, kind, source)
    width = lm.max_concurrency
    with progress_bars() as progress:
        bar = progress("eval")

        async def work() -> None:
            try:
                await map_rows(
                    file, items, make, kind, max_concurrency=width, source=source, progress=bar
                )
                if unanswered:
                    print(
                        f"eval: {len(unanswered)} unanswered rows are asked again", file=sys.stderr
                    )
                    again = [item for item in items if item.id in unanswered]
                    await ask_again(file, again, make, kind, source=source, max_concurrency=width)
            finally:
                await lm.aclose()
                if judge is not None:
                    await judge.aclose()

        asyncio.run(work())
    return list(store.read_rows(file, kind))


def print_scores(scores: Sequence[Score]) -> None:
    """A line for each metric."""
    for row in scores:
        mean = "–" if row.mean is None else f"{row.mean:.3f}"
        print(f"{row.metric:<44} {mean} n={row.n}")
