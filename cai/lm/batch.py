"""A stage's calls through a batch queue: passes over its rows until every call has an answer.

Each pass makes the rows as a run does, with answers from the request log and from the queue's
files. A call without an answer ends its row for this pass. What such rows need next is one wave of
requests. When no call is open, the stage runs as always, on logged answers alone: so a run through
batches has the rows of a run through calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cai.async_map import bounded_map
from cai.lm.base import LM
from cai.lm.batch_files import custom_id
from cai.progress import Progress


class OpenRequestError(Exception):
    """A call that a batch has no answer to yet. Its row is not made, and stays to be done."""


class WaveError(Exception):
    """Requests of a stage are open: it cannot end yet."""


class Answers(Protocol):
    """The answers that there are."""

    def find(self, name: str) -> bytes | None:
        """The body of the answer to a request, by its name; None: there is none."""
        ...


class RequestSink(Protocol):
    """Takes the requests that have no answer."""

    def add(self, name: str, body: dict[str, Any]) -> None: ...


@dataclass
class Batch:
    """What one pass over a stage does in place of calls: it looks answers up, and notes the
    requests that have none.
    """

    stage: str
    answers: Answers
    sink: RequestSink | None = None
    open_ids: set[str] = field(default_factory=set)
    answered: int = 0

    def answer(self, body: dict[str, Any]) -> bytes:
        """The body of the answer to a request.

        Raises:
            OpenRequestError: there is none; the request is noted.
        """
        name = custom_id(self.stage, body)
        data = self.answers.find(name)
        if data is None:
            raise self.reopened(body)
        self.answered += 1
        return data

    def reopened(self, body: dict[str, Any]) -> OpenRequestError:
        """The error for a request without a usable answer, which is noted."""
        name = custom_id(self.stage, body)
        if name not in self.open_ids:
            self.open_ids.add(name)
            if self.sink is not None:
                self.sink.add(name, body)
        return OpenRequestError(f"{name}: no answer yet")


def collect_requests(
    lm: LM,
    rows: Sequence[Any],
    step: Callable[[Any], Awaitable[Any]],
    batch: Batch,
    progress: Progress,
) -> None:
    """Try every row.

    Raises:
        WaveError: calls are open, and noted in `batch`.
    """

    async def try_step(row: Any) -> None:
        with contextlib.suppress(OpenRequestError):
            await step(row)

    async def work() -> None:
        todo = {row.id: row for row in rows}
        done = 0
        progress(done, len(todo))
        chunks = bounded_map(todo, try_step, lm.max_concurrency)
        try:
            async with contextlib.aclosing(chunks):
                async for ids, _ in chunks:
                    done += len(ids)
                    progress(done, len(todo))
        finally:
            await lm.aclose()

    asyncio.run(work())
    if batch.open_ids:
        raise WaveError(f"{batch.stage}: {len(batch.open_ids)} requests are open")
