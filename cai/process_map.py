"""A function over many items in several processes; the results come in the order of the items.

The processes are spawned, not forked: a fork would inherit the threads and locks of libraries. Each
has a pipe of its own to the process that started it. When that one ends, however it ends, a worker
finishes its item at most. Ctrl-C reaches the first process alone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.resource_tracker import ensure_running
from typing import Any, TypeVar

from cai.errors import JobError

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 2
"""Items per process that are begun, or done, while the first of them is not."""


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_processes(
    start: Callable[[], Callable[[T], R]], items: Iterable[T], *, processes: int
) -> Iterator[R]:
    """`map(start(), items)`, with `start()` called once in each process.

    An error, also one while an item is taken, is raised after the results of the items before it.

    Args:
        start: gives the function; it can be pickled, as items, results and errors can.
        processes: at most so many, as there are items for them.

    Raises:
        JobError: a process was ended before its work was done.
    """
    workers = _Workers(start)
    outcomes: dict[int, _Outcome] = {}
    begun = returned = 0
    remaining = _outcomes(items)
    is_last = False
    try:
        while not is_last or workers.busy:
            while workers.busy < processes and begun - returned < AHEAD * processes:
                taken = next(remaining, None)
                if taken is None:
                    is_last = True
                    break
                if taken.error is None:
                    workers.begin(begun, taken.value)
                else:
                    outcomes[begun] = taken
                begun += 1
            if workers.busy:
                outcomes |= workers.wait()
            while returned in outcomes:
                yield outcomes.pop(returned).result()
                returned += 1
    finally:
        workers.end()


class _Outcome:
    """A value, or the error in its place."""

    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self.value, self.error = value, error

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


def _outcomes(items: Iterable[Any]) -> Iterator[_Outcome]:
    """The items, and at the end the error that ended them if there is one."""
    try:
        for item in items:
            yield _Outcome(item)
    except Exception as error:
        yield _Outcome(error=error)


class _Workers:
    """Processes, started as they are needed, each with at most one item."""

    def __init__(self, start: Callable[[], Callable[[Any], Any]]) -> None:
        self._start = start
        self._processes: list[tuple[SpawnProcess, Connection]] = []
        self._idle: list[Connection] = []
        self._number_of: dict[Connection, int] = {}

    @property
    def busy(self) -> int:
        return len(self._number_of)

    def begin(self, number: int, item: Any) -> None:
        connection = self._idle.pop() if self._idle else self._start_process()
        with _lost_worker():
            connection.send(item)
        self._number_of[connection] = number

    def wait(self) -> dict[int, _Outcome]:
        """Number of an item -> its outcome, of those that are done; at least one."""
        done: dict[int, _Outcome] = {}
        ready = set(wait(list(self._number_of)))
        for connection in [one for one in self._number_of if one in ready]:
            with _lost_worker():
                done[self._number_of.pop(connection)] = connection.recv()
            self._idle.append(connection)
        return done

    def end(self) -> None:
        for process, connection in self._processes:
            connection.close()
            process.terminate()
        for process, _ in self._processes:
            process.join()

    def _start_process(self) -> Connection:
        context = get_context("spawn")
        connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self._start, theirs), daemon=True)
        ensure_running()  # `start` would do it, and let SIGINT through from then on
        with _no_interrupts():  # the process inherits this
            process.start()
        theirs.close()  # so that the pipe ends with the process
        self._processes.append((process, connection))
        return connection


@contextmanager
def _lost_worker() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError):
        raise JobError(
            "a worker process was ended from outside, perhaps for lack of memory: "
            "run the same command to resume"
        ) from None


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Hold back SIGINT until the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(start: Callable[[], Callable[[Any], Any]], connection: Connection) -> None:
    """The work of a process: an outcome for each item, until the pipe ends."""
    function = None
    with suppress(EOFError, OSError):
        while True:
            item = connection.recv()
            try:
                function = function or start()
                outcome = _Outcome(function(item))
            except Exception as error:
                outcome = _Outcome(error=error)
            connection.send(outcome)
