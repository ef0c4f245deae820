"""The HTTP server of a run's reward, for trainers that run in other environments.

    POST /score        {"rows": [{"prompt" or "chat", "response", "kind"}]}
                       -> {"rewards": [number or null], "parts": {name: [number or null]},
                           "reasons": [null or text]}
    POST /get_reward   {"query": [...], "prompts": [...], "labels": [...]}    (OpenRLHF)
                       -> {"rewards", "scores", "extra_logs", "reasons"}
    POST /rank         {"prompt" or "chat", "kind", "responses": [...]}
                       -> {"rewards", "parts", "reasons"}: each reply's share of won comparisons
    GET  /health       -> {"ok": true}

Every POST needs the token. Bodies, rows, texts, connections and waiting times have limits. Requests
that wait at the same time are scored together, by one thread that runs the model. No text of a
request is ever logged.

The event loop of asyncio accepts connections: it sets TCP_NODELAY, and waits when descriptors run
out. `cai.integrations.reward_connection` reads requests with h11.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from queue import Full
from typing import Any

from cai.errors import CaiError, TransientError
from cai.generate.rank import Rank
from cai.integrations.group_requests import NO_RANK, Group, group_score, shares_of
from cai.integrations.reward_batching import (
    BatchScorer,
    Job,
    RewardParts,
    RewardTable,
    ScoreJobs,
    ScoreTexts,
)
from cai.integrations.reward_connection import Connection
from cai.integrations.reward_requests import BytesInFlight, Limits, RequestError, ScoreRow

TOKEN_VARIABLE = "CAI_REWARD_TOKEN"  # noqa: S105  # the name of an environment variable
BACKLOG = 256
READ_BUFFER_BYTES = 1 << 16
QUEUE_POLL_S = 0.01
SETTLE_S = 0.1
"""Seconds in which a stopping server still accepts connections and heads that have arrived."""
BUSY_BODY = b'{"error": "too many connections: retry later"}'
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
) % (len(BUSY_BODY), BUSY_BODY)


def is_header_token(token: str) -> bool:
    """Whether a token arrives in a header as it is sent."""
    return bool(token) and token.isascii() and token.isprintable() and token == token.strip()


class RewardServer:
    """A server that runs until `shutdown` or a signal. Its port is `server_address[1]`.

    Args:
        address: (host, port); port 0 lets the system choose one.
        score: the reward.
        token: the bearer token that every POST must send.
        limits: of requests, connections, batches and the queue.
        end_texts: texts of the special tokens that end or pad a reply; engines that send whole
            token rows leave them in.

    Raises:
        ValueError: the token is empty, or cannot be sent in a header.
        OSError: the address cannot be bound.
    """

    def __init__(
        self,
        address: tuple[str, int],
        score: ScoreTexts,
        token: str,
        limits: Limits | None = None,
        end_texts: Sequence[str] = (),
    ) -> None:
        if not is_header_token(token):
            raise ValueError(
                "a reward server needs a token of printable ASCII characters, without spaces or "
                "line breaks at its ends"
            )
        self.token = token
        self.limits = limits or Limits()
        self.end_texts = tuple(end_texts)
        self.model = threading.Lock()
        """Held while replies are scored or ranked: the judge may be the model that is scored."""
        self.ranker: BatchScorer | None = None
        self.scorer = BatchScorer(
            _locked(score, self.model),
            batch_size=self.limits.batch_size,
            batch_wait_s=self.limits.batch_wait_s,
            max_queued=self.limits.max_queued,
        )
        self.socket = socket.create_server(address, backlog=BACKLOG)
        self.server_address: tuple[str, int] = self.socket.getsockname()[:2]
        self.stopping = False
        self.bodies = BytesInFlight(self.limits.max_bytes_in_flight)
        self.scorer.start()
        self._connections: dict[asyncio.Task[Any], Connection] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ended = threading.Event()
        self._warned = False

    def serve_ranks(self, rank: Rank) -> None:
        """Answer /rank too, one group at a time. Before `serve_forever`."""
        self.ranker = BatchScorer(
            _locked(group_score(rank), self.model),
            batch_size=1,
            batch_wait_s=0.0,
            max_queued=self.limits.max_queued,
        )
        self.ranker.start()

    # ---- lifecycle ----

    def serve_forever(self) -> int | None:
        """Answer requests until `shutdown`, SIGTERM or SIGINT, then finish those under way.

        Signals are handled where this runs in the main thread. A second one ends the process.

        Returns:
            The number of the signal that ended it, or None.
        """
        try:
            return asyncio.run(self._serve())
        finally:
            self._ended.set()

    def shutdown(self) -> None:
        """End `serve_forever`, from another thread, and wait for it."""
        self.stopping = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._ended.wait(self.limits.drain_s + 5)

    def server_close(self, timeout_s: float = 2.0) -> bool:
        """Close the socket and end the thread that scores.

        Returns:
            Whether the thread has ended; False while the model is at work on a batch.
        """
        self.socket.close()
        ended = self.ranker is None or self.ranker.stop(timeout_s)
        return self.scorer.stop(timeout_s) and ended

    async def _serve(self) -> int | None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._warn)
        received: list[int] = []
        in_main_thread = threading.current_thread() is threading.main_thread()
        handled = [signal.SIGTERM, signal.SIGINT] if in_main_thread else []

        def on_signal(number: int) -> None:
            received.append(number)
            self._stop.set()

        for number in handled:
            self._loop.add_signal_handler(number, on_signal, number)
        listener = await asyncio.start_server(
            self._connect, sock=self.socket, limit=READ_BUFFER_BYTES, backlog=BACKLOG
        )
        if not self.stopping:
            await self._stop.wait()
        self.stopping = True
        for number in handled:
            self._loop.remove_signal_handler(number)
        await asyncio.sleep(SETTLE_S)
        listener.close()
        await self._drain()
        return received[0] if received else None

    async def _drain(self) -> None:
        """Close idle connections, and let the others finish their request."""
        idle = [task for task, connection in self._connections.items() if not connection.busy]
        for task in idle:
            task.cancel()
        if self._connections:
            _, late = await asyncio.wait(list(self._connections), timeout=self.limits.drain_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= self._max_connections():
            writer.write(BUSY)
            writer.close()
            return
        connection = self._connections[task] = Connection(self, reader, writer)
        try:
            await connection.serve()
        except asyncio.CancelledError:
            pass  # the server stops
        finally:
            writer.transport.abort()
            del self._connections[task]

    def _max_connections(self) -> int:
        """At most half of the process's descriptors: the model and its libraries need some."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors == resource.RLIM_INFINITY:
            return self.limits.max_connections
        return min(self.limits.max_connections, max(1, descriptors // 2))

    def _warn(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """One line for the first trouble with connections, in place of asyncio's traceback each."""
        if not self._warned:
            self._warned = True
            reason = context.get("exception") or context.get("message")
            print(f"cai: serve-reward: a connection failed: {reason}", file=sys.stderr, flush=True)

    # ---- rewards ----

    async def rewards(self, rows: Sequence[ScoreRow]) -> list[RewardParts]:
        """The parts of each row's reward.

        Raises:
            RequestError: (503) not computed in time, or a passing failure; (500) the reward failed.
        """
        return await self._results(self.scorer, [Job(row.prompt, row.reply) for row in rows])

    async def shares(self, group: Group) -> list[float | None]:
        """Each reply's share of won comparisons.

        Raises:
            RequestError: (404) there is no judge; (503), (500) as for `rewards`.
        """
        if self.ranker is None:
            raise RequestError(404, NO_RANK)
        (parts,) = await self._results(self.ranker, [Job(group.prompt, group.replies)])
        return shares_of(parts)

    async def _results(self, scorer: BatchScorer, jobs: Sequence[Job]) -> list[RewardParts]:
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                for job in jobs:
                    await self._enqueue(scorer, job)
                return await asyncio.gather(*(asyncio.wrap_future(job.result) for job in jobs))
        except TimeoutError:
            message = "no rewards in time: send fewer rows, or retry later"
            raise RequestError(503, message) from None
        except CaiError as error:
            status = 503 if isinstance(error, TransientError) else 500
            raise RequestError(status, str(error)) from None
        except Exception as error:
            raise RequestError(500, f"the reward failed: {type(error).__name__}") from None
        finally:
            for job in jobs:  # of a failed request: its other rows need no reward
                job.cancel()

    async def _enqueue(self, scorer: BatchScorer, job: Job) -> None:
        while True:
            try:
                scorer.jobs.put_nowait(job)
            except Full:
                await asyncio.sleep(QUEUE_POLL_S)
            else:
                return


def _locked(score: ScoreJobs, lock: threading.Lock) -> ScoreJobs:
    def locked(prompts: Sequence[Any], replies: Sequence[Any]) -> RewardTable:
        with lock:
            return score(prompts, replies)

    return locked
