"""Progress of long work on stderr: bars on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

Progress = Callable[[int, int], None]
"""Called with (done, total)."""
ProgressFactory = Callable[[str], Progress]
"""Name of the work -> the function that reports its progress."""
SECONDS_BETWEEN_LINES = 15.0
"""Shortest time between two lines, where stderr is not a terminal."""


@contextlib.contextmanager
def progress_bars() -> Iterator[ProgressFactory]:
    """Yields a factory of progress bars, one for each name."""
    from rich import progress as rich_progress  # here, because the import takes 0.1 s
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_reporter
        return
    columns = (
        rich_progress.TextColumn("{task.description:>20}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=console, transient=True) as bars:

        def start(name: str) -> Progress:
            task = bars.add_task(name, total=None)

            def report(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total, visible=done < total)

            return report

        yield start


def _line_reporter(name: str) -> Progress:
    last_line_at = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last_line_at
        now = time.monotonic()
        if done == total or now - last_line_at >= SECONDS_BETWEEN_LINES:
            last_line_at = now
            print(f"{name}: {done} of {total}", file=sys.stderr, flush=True)

    return report
