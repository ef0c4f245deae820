"""Rows of a file beside an output: new ones, and new tries of those without an answer for now."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cai.async_map import InT, RowT

if TYPE_CHECKING:
    from cai.lm import LM


async def resumed_rows(
    file: Path,
    items: Sequence[InT],
    step: Callable[[InT], Awaitable[RowT]],
    kind: type[RowT],
    *,
    source: Callable[[RowT], str],
    lm: LM,
) -> list[RowT]:
    """The rows of the file, one for each item and perhaps others.

    Args:
        source: the item's id of a row.
        lm: the model that the step calls.
    """
    from cai import store
    from cai.async_map import map_rows
    from cai.generate.unanswered import ask_again, unanswered_sources
    from cai.progress import progress_bars

    unanswered = unanswered_sources(file, kind, source)
    again = [item for item in items if item.id in unanswered]
    width = lm.max_concurrency
    with progress_bars() as progress:
        try:
            await map_rows(
                file, items, step, kind,
                max_concurrency=width, source=source, progress=progress(file.name),
            )  # fmt: skip
            if again:
                print(f"{file}: {len(again)} unanswered rows are asked again", file=sys.stderr)
                await ask_again(file, again, step, kind, source=source, max_concurrency=width)
        finally:
            await lm.aclose()
    return list(store.read_rows(file, kind))
