"""How far a stage is: a bar where somebody watches, a line now and then where output goes to a file. On stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 15.0
"""Seconds between lines when nobody watches."""
ProgressFactory = Callable[[str], Callable[[int, int], None]]


@contextlib.contextmanager
def progress_bars() -> Iterator[ProgressFactory]:
    """Gives, for a stage's name, the function that it calls with (done, total)."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines
        return
    columns = TextColumn("{task.description:>20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bars:

        def stage(name: str) -> Callable[[int, int], None]:
            task: TaskID = bars.add_task(name, total=None)

            def tell(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total, visible=done < total)

            return tell

        yield stage


def _lines(name: str) -> Callable[[int, int], None]:
    last = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= EVERY:
            last = now
            print(f"{name}: {done} of {total}", file=sys.stderr, flush=True)

    return tell
