"""The rows of an evaluation on a file: made once, and asked again where there was no answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cai.lm import LM


def evaluated_rows(
    file: Path,
    items: Sequence[Any],
    how: tuple[Callable[[Any], Awaitable[Any]], Any, Callable[[Any], str]],
    lms: Sequence[LM],
    label: str = "eval",
) -> list[Any]:
    """The rows in `file`: new ones, and new tries of those without an answer for now.

    Args:
        how: what makes the row of an item; the type of the rows; the id of a row's item.
        lms: the models that are called, the subject first; their connections are closed at the end.
        label: names the work while it goes on.
    """
    from cai import store
    from cai.async_map import map_rows
    from cai.generate.unanswered import ask_again, unanswered_sources
    from cai.progress import progress_bars

    step, kind, source = how
    unanswered = unanswered_sources(file, kind, source)
    width = lms[0].max_concurrency
    with progress_bars() as progress:
        bar = progress(label)

        async def work() -> None:
            try:
                await map_rows(
                    file, items, step, kind, max_concurrency=width, source=source, progress=bar
                )
                if unanswered:
                    print(
                        f"{label}: {len(unanswered)} unanswered rows are asked again",
                        file=sys.stderr,
                    )
                    again = [item for item in items if item.id in unanswered]
                    await ask_again(file, again, step, kind, source=source, max_concurrency=width)
            finally:
                for lm in lms:
                    await lm.aclose()

        asyncio.run(work())
    return list(store.read_rows(file, kind))
