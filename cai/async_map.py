"""The resumable, bounded map over rows, and the same map in memory.

Kill a run and run it again: rows that are done stay done. Rows are written in the order of the
input.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter, deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cai.progress import Progress
from cai.records import Row
from cai.store import append_rows, atomic_write, read_rows, truncate_torn_line

T = TypeVar("T")
RowT = TypeVar("RowT", bound=Row)
OutT = TypeVar("OutT")


class HasId(Protocol):
    """An input with a stable name."""

    @property
    def id(self) -> str: ...


InT = TypeVar("InT", bound=HasId)
CHUNK = 64
"""Results that `bounded_map` yields at a time, at least; the last chunk may be smaller."""


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
    """Append `step(row)` to `out` for every row whose id is not yet the `source` of a row there.

    Rows are processed in windows of `max_concurrency` that begin at fixed indices of the input, and
    a window is appended in one write, in input order. So the calls in flight together are the same
    whether or not the run was ever killed, and a back end whose answers depend in the last bit on
    the batch they share gives the same answers. With `sliding`, for back ends whose answers do not,
    a row is started whenever one is done, without waiting for the slowest row of a window; the
    content of the file is the same.

    Args:
        out: JSONL file, which is created empty when there are no rows.
        rows: inputs; those with equal ids are processed once.
        step: makes the output row of an input row.
        kind: type of the output rows.
        max_concurrency: rows in flight at once.
        source: the input id of an output row.
        progress: called with (done, total) rows.
        sliding: see above.
    """
    truncate_torn_line(out)
    done = {source(row) for row in read_rows(out, kind)} if out.exists() else set()
    ids = [row.id for row in rows]  # each id is a hash of the row's content: computed once
    copies = Counter(ids)
    finished = sum(row_id in done for row_id in ids)
    progress(finished, len(rows))
    if sliding:
        todo = {row_id: row for row_id, row in zip(ids, rows, strict=True) if row_id not in done}
        chunks = bounded_map(todo, step, max_concurrency)
    else:
        chunks = _map_windows(ids, rows, step, done, max_concurrency)
    async with contextlib.aclosing(chunks):
        async for chunk_ids, results in chunks:
            append_rows(out, results)
            finished += sum(copies[row_id] for row_id in chunk_ids)
            progress(finished, len(rows))
    if not out.exists():
        atomic_write(out, "")


async def map_in_memory(
    rows: Sequence[InT],
    step: Callable[[InT], Awaitable[OutT]],
    *,
    max_concurrency: int = 64,
    sliding: bool = False,
) -> list[OutT]:
    """`step(row)` of every row, in order; rows with equal ids are processed once.

    The calls in flight together are those of `map_rows`, so a back end whose answers depend on the
    batch they share gives the same answers as there.

    Args:
        max_concurrency, sliding: as in `map_rows`.
    """
    ids = [row.id for row in rows]
    if sliding:
        chunks = bounded_map(dict(zip(ids, rows, strict=True)), step, max_concurrency)
    else:
        chunks = _map_windows(ids, rows, step, (), max_concurrency)
    results: dict[str, OutT] = {}
    async with contextlib.aclosing(chunks):
        async for chunk_ids, chunk_results in chunks:
            results.update(zip(chunk_ids, chunk_results, strict=True))
    return [results[row_id] for row_id in ids]


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, whether or not an event loop is running in this thread.

    Where one is running (in a notebook), the coroutine runs in a thread with a loop of its own,
    and is cancelled if the wait for it is interrupted.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        loop_is_running = False
    else:
        loop_is_running = True
    if not loop_is_running:
        return asyncio.run(work)
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)

    def run_in_thread() -> T:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(as_coroutine(task))

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(run_in_thread)
        try:
            return future.result()
        except KeyboardInterrupt:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the work has ended
                loop.call_soon_threadsafe(task.cancel)
            raise


async def gather(jobs: Sequence[Awaitable[T]]) -> list[T]:
    """Results in order. The first failure cancels the rest and is raised itself, not in a group."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _map_windows(
    ids: Sequence[str],
    rows: Sequence[InT],
    step: Callable[[InT], Awaitable[OutT]],
    done: Collection[str],
    width: int,
) -> AsyncGenerator[tuple[list[str], list[OutT]], None]:
    """(ids, results) of each window of `width` rows, without the rows that are done."""
    done = set(done)
    for start in range(0, len(rows), width):
        stop = start + width
        numbered = zip(ids[start:stop], rows[start:stop], strict=True)
        window = {row_id: row for row_id, row in numbered if row_id not in done}
        if window:
            results = await gather([step(row) for row in window.values()])
            yield list(window), results
            done.update(window)


async def bounded_map(
    todo: Mapping[str, T], step: Callable[[T], Awaitable[OutT]], max_concurrency: int
) -> AsyncGenerator[tuple[list[str], list[OutT]], None]:
    """(ids, results) in the order of `todo`, `CHUNK` or more at a time.

    At most `max_concurrency` jobs are started and not yet collected. The first failure
    cancels the rest; it is raised after the results before it have been yielded.
    """
    failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_done(task: asyncio.Task[OutT]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not failure.done():
            failure.set_exception(error)

    started: deque[tuple[str, asyncio.Task[OutT]]] = deque()
    remaining = iter(todo.items())
    ids: list[str] = []
    results: list[OutT] = []
    gc.freeze()  # else full collections visit all modules, a tenth of the time of calls
    try:
        while True:
            for row_id, row in islice(remaining, max(0, max_concurrency - len(started))):
                task = asyncio.ensure_future(as_coroutine(step(row)))
                task.add_done_callback(on_done)
                started.append((row_id, task))
            if not started:
                break
            next_or_failure: set[asyncio.Future[Any]] = {started[0][1], failure}
            await asyncio.wait(next_or_failure, return_when=asyncio.FIRST_COMPLETED)
            while started and started[0][1].done() and started[0][1].exception() is None:
                row_id, task = started.popleft()
                ids.append(row_id)
                results.append(task.result())
            if results and (failure.done() or len(results) >= CHUNK):
                yield ids, results
                ids, results = [], []
            if failure.done():
                failure.result()
        if results:
            yield ids, results
    finally:
        for _, task in started:
            task.cancel()
        await asyncio.gather(*(task for _, task in started), return_exceptions=True)
        gc.unfreeze()
        if not failure.cancel() and not failure.cancelled():
            failure.exception()  # asyncio logs an exception that is never retrieved


async def as_coroutine(work: Awaitable[OutT]) -> OutT:
    """A coroutine that awaits `work`."""
    return await work


def in_batches(
    compute: Callable[[Sequence[T]], Sequence[OutT]],
) -> Callable[[T], Awaitable[OutT]]:
    """`compute` as a function of one input, which waits for the other calls of that moment."""
    waiting: list[tuple[T, asyncio.Future[OutT]]] = []
    workers: set[asyncio.Task[None]] = set()

    async def work() -> None:
        count = -1
        while count != len(waiting):  # until no task that can run adds another call
            count = len(waiting)
            for _ in range(4):
                await asyncio.sleep(0)
        calls = list(waiting)
        waiting.clear()
        try:
            outputs = compute([value for value, _ in calls])
        except Exception as error:
            for _, future in calls:
                if not future.cancelled():
                    future.set_exception(error)
            return
        for (_, future), output in zip(calls, outputs, strict=True):
            if not future.cancelled():
                future.set_result(output)

    async def call(value: T) -> OutT:
        future: asyncio.Future[OutT] = asyncio.get_running_loop().create_future()
        waiting.append((value, future))
        if len(waiting) == 1:
            task = asyncio.create_task(work())
            workers.add(task)
            task.add_done_callback(workers.discard)
        return await future

    return call
