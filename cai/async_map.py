"""One resumable map over rows: kill it, rerun it, and what is done stays done. Rows come out in the order of the input."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cai.progress import Progress
from cai.records import Row
from cai.store import append, atomic_write, read, truncate_torn_line

T = TypeVar("T")
RowT = TypeVar("RowT", bound=Row)
OutT = TypeVar("OutT")


class HasId(Protocol):
    """Something to work on, with a name of its own."""

    @property
    def id(self) -> str: ...


InT = TypeVar("InT", bound=HasId)
CHUNK = 64
"""Results that are given out in one go."""


async def map_rows(
    out: Path,
    rows: Sequence[InT],
    step: Callable[[InT], Awaitable[RowT]],
    kind: type[RowT],
    *,
    max_concurrency: int = 64,
    source: Callable[[RowT], str] = lambda row: str(getattr(row, "source", "")),
    progress: Progress = lambda done, total: None,
    sliding: bool = False,
) -> None:
    """Append `step(row)` for every row whose id is not yet a `source` in `out`. Kill it, rerun it. Equal rows count as one.

    Rows are worked in windows of `max_concurrency` that begin at fixed places of the input, and a window is written in one go and in
    input order. So the calls in flight together are the same whether or not the run was ever killed, and a back end whose
    answers depend in the last bit on what shares a batch gives the same answers. With `sliding`, for back ends whose answers do
    not, a row is begun whenever one is done, so that nobody waits for a window's last; the file is the same.
    """
    truncate_torn_line(out)
    done = {source(row) for row in read(out, kind)} if out.exists() else set()
    ids = [row.id for row in rows]  # a hash each: taken once
    times = Counter(ids)
    finished = sum(name in done for name in ids)
    progress(finished, len(rows))
    if sliding:
        todo = {name: row for name, row in zip(ids, rows, strict=True) if name not in done}
        async with contextlib.aclosing(bounded_map(todo, step, max_concurrency)) as parts:
            async for names, made in parts:
                append(out, made)
                finished += sum(times[name] for name in names)
                progress(finished, len(rows))
    for start in range(0, 0 if sliding else len(rows), max_concurrency):
        here = slice(start, start + max_concurrency)
        window = {name: row for name, row in zip(ids[here], rows[here], strict=True) if name not in done}
        if window:
            append(out, await gather([step(row) for row in window.values()]))
            finished += sum(times[name] for name in window)
            done.update(window)
            progress(finished, len(rows))
    if not out.exists():
        atomic_write(out, "")


async def gather(jobs: Sequence[Awaitable[T]]) -> list[T]:
    """Results in order. The first failure cancels the rest and is raised as itself, not as a group."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def bounded_map(
    todo: Mapping[str, T], step: Callable[[T], Awaitable[OutT]], max_concurrency: int
) -> AsyncGenerator[tuple[list[str], list[OutT]], None]:
    """(names, results) in the order of `todo`, some at a time, with at most `max_concurrency` jobs begun and not given out.

    The first failure cancels the rest and is raised, after what is whole before it was given out.
    """
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def watch(task: asyncio.Task[OutT]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not failed.done():
            failed.set_exception(error)

    begun: deque[tuple[str, asyncio.Task[OutT]]] = deque()
    left = iter(todo.items())
    names: list[str] = []
    made: list[OutT] = []
    try:
        while True:
            for name, row in islice(left, max(0, max_concurrency - len(begun))):
                task = asyncio.ensure_future(_job(step(row)))
                task.add_done_callback(watch)
                begun.append((name, task))
            if not begun:
                break
            first: set[asyncio.Future[Any]] = {begun[0][1], failed}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            while begun and begun[0][1].done() and begun[0][1].exception() is None:
                name, task = begun.popleft()
                names.append(name)
                made.append(task.result())
            if made and (failed.done() or len(made) >= CHUNK):
                yield names, made
                names, made = [], []
            if failed.done():
                failed.result()
        if made:
            yield names, made
    finally:
        for _, task in begun:
            task.cancel()
        await asyncio.gather(*(task for _, task in begun), return_exceptions=True)
        if not failed.cancel() and not failed.cancelled():
            failed.exception()  # looked at: asyncio complains of what nobody has seen


async def _job(work: Awaitable[OutT]) -> OutT:
    return await work
