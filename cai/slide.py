"""Many jobs, some of them under way at once, results in order: the next begins whenever one is done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from itertools import islice
from typing import Any, TypeVar

SOME = 64
"""Results that are given out in one go."""
InT = TypeVar("InT")
OutT = TypeVar("OutT")


async def slide(
    todo: Mapping[str, InT], step: Callable[[InT], Awaitable[OutT]], width: int
) -> AsyncGenerator[tuple[list[str], list[OutT]], None]:
    """(names, results) in the order of `todo`, some at a time, with at most `width` jobs begun and not given out.

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
            for name, row in islice(left, max(0, width - len(begun))):
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
            if made and (failed.done() or len(made) >= SOME):
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
