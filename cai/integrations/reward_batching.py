"""Reward batching: one thread scores the rows of all requests in batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from typing import Any

from cai.records import Prompt, chat_of

RewardTable = dict[str, list[float | None]]
"""Reward part -> one value per reply; None where the part is unknown."""
RewardParts = dict[str, float | None]
"""Reward part -> its value for one reply; None where it is unknown."""
ScoreTexts = Callable[[Sequence[Prompt], Sequence[str]], RewardTable]
"""(prompts, replies) -> the parts of each reply's reward."""
ScoreJobs = Callable[[Sequence[Prompt], Sequence[Any]], RewardTable]
"""The same for jobs, of which each is a reply or a tuple of replies."""


def sum_parts(table: RewardTable) -> list[float | None]:
    """The reward of each reply: the sum of its parts, or None where any of them is unknown."""
    rewards: list[float | None] = []
    for row in zip(*table.values(), strict=True):
        known = [value for value in row if value is not None]
        rewards.append(sum(known) if len(known) == len(row) else None)
    return rewards


NO_PROMPT = Prompt(chat=chat_of(("user", "-")))


@dataclass
class Job:
    """One reply that waits for its reward, or the replies of a prompt that wait to be ranked."""

    prompt: Prompt
    reply: str | tuple[str, ...]
    result: Future[RewardParts] = field(default_factory=Future)

    def cancel(self) -> None:
        """Forget the texts of a job that nobody waits for: it may stay in the queue for long."""
        if self.result.cancel():
            self.prompt, self.reply = NO_PROMPT, ""


class BatchScorer(threading.Thread):
    """The only thread that calls `score`, on rows gathered from all requests.

    Args:
        score: the reward of a batch of replies.
        batch_size: rows scored together.
        batch_wait_s: seconds that the first row of a batch waits for others.
        max_queued: rows in the queue; `jobs.put` blocks while it is full.
    """

    def __init__(
        self, score: ScoreJobs, *, batch_size: int, batch_wait_s: float, max_queued: int
    ) -> None:
        super().__init__(daemon=True, name="cai-scorer")
        self.score = score
        self.batch_size = batch_size
        self.batch_wait_s = batch_wait_s
        self.jobs: Queue[Job | None] = Queue(maxsize=max_queued)
        """None wakes the thread up when it has to end."""
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.is_set():
            if batch := self._next_batch():
                self._score_batch(batch)

    def stop(self, timeout_s: float) -> bool:
        """End the thread after its batch; return whether it has ended within the timeout.

        The interpreter aborts where it shuts down while this thread is inside of a model.
        """
        self._stopping.set()
        with suppress(Full):  # a full queue keeps the thread awake
            self.jobs.put_nowait(None)
        self.join(timeout_s)
        return not self.is_alive()

    def _next_batch(self) -> list[Job]:
        """The next jobs in the queue.

        Cancelled jobs are dropped: their requests have timed out, and under load they would only
        delay the others.
        """
        batch: list[Job] = []
        deadline: float | None = None
        while len(batch) < self.batch_size:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                job = self.jobs.get(timeout=timeout)
            except Empty:
                break
            if job is None:
                break
            if not job.result.cancelled():
                batch.append(job)
                deadline = deadline or time.monotonic() + self.batch_wait_s
        return batch

    def _score_batch(self, jobs: list[Job]) -> None:
        try:
            table = self.score([job.prompt for job in jobs], [job.reply for job in jobs])
            rows = [{name: part[i] for name, part in table.items()} for i in range(len(jobs))]
        except Exception as error:  # the thread must outlive a batch that fails
            self._handle_failure(jobs, error)
            return
        for job, row in zip(jobs, rows, strict=True):
            if job.result.set_running_or_notify_cancel():
                job.result.set_result(row)

    def _handle_failure(self, jobs: list[Job], error: Exception) -> None:
        """Score the rows one by one: one row may be at fault, and must not fail other requests."""
        if len(jobs) == 1:
            if jobs[0].result.set_running_or_notify_cancel():
                jobs[0].result.set_exception(error)
            return
        for job in jobs:
            if not job.result.cancelled():
                self._score_batch([job])
