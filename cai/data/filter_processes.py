"""Processes that judge rows beside the one that reads them.

The reading process judges a block itself whenever the others have enough to do. Few rows start no
process. Outcomes come in the order of the rows, and are those of one process.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from cai.data.filter_worker import outcomes_file, save_block, save_settings
from cai.data.filters import ConversationT, PromptFilters
from cai.data.judged_rows import Outcomes, judge_rows, load_outcomes
from cai.errors import JobError, blame
from cai.files import write_errors

BLOCK_ROWS, BLOCK_CHARACTERS = 1 << 10, 1 << 20
"""Most rows that are judged together; fewer, where their texts are longer than so much together."""
FIRST_BLOCKS = 8
"""Blocks that the reading process judges before it starts others: they take a second to start."""
MAX_PROCESSES = 7
"""Of the others. Each takes 200 MB with the model of languages, and more would wait for rows."""
QUEUED = 3
"""Blocks that a process has: the one that it judges, and its next ones."""


@dataclass(frozen=True)
class _Block:
    """Rows that are judged together."""

    number: int
    first_row: int
    """From 1, for messages."""
    rows: Sequence[Any]
    lengths: Sequence[int | None]


@dataclass(frozen=True)
class _Ticket:
    """A block that was judged here, or is judged by another process."""

    block: _Block
    outcomes: Outcomes | None = None
    process: _Process | None = None
    turn: int = 0
    """Of the blocks that the process was given, from 0."""


def judged_blocks(
    rows: Iterable[ConversationT], rules: PromptFilters
) -> Generator[tuple[Sequence[ConversationT], Outcomes], None, None]:
    """(rows, their outcomes), block by block, in order.

    Raises:
        JobError: a filter failed, or a process ended by itself.
    """
    with _Processes(rules) as processes:
        pending: deque[_Ticket] = deque()
        for block in _blocks(rows, rules):
            ticket = processes.take(block) if block.number >= FIRST_BLOCKS else None
            pending.append(ticket or _Ticket(block, _judged(block, rules)))
            while pending and (processes.is_done(pending[0]) or len(pending) > processes.limit):
                first = pending.popleft()
                yield first.block.rows, processes.outcomes(first)
        for ticket in pending:
            yield ticket.block.rows, processes.outcomes(ticket)


def _blocks(rows: Iterable[ConversationT], rules: PromptFilters) -> Iterator[_Block]:
    block: list[ConversationT] = []
    number, first_row, characters = 0, 1, 0
    for row in rows:
        block.append(row)
        characters += sum(len(message.content) for message in row.chat)
        if len(block) == BLOCK_ROWS or characters >= BLOCK_CHARACTERS:
            yield _Block(number, first_row, block, rules.lengths(block))
            number, first_row, characters = number + 1, first_row + len(block), 0
            block = []
    if block:
        yield _Block(number, first_row, block, rules.lengths(block))


def _judged(block: _Block, rules: PromptFilters) -> Outcomes:
    last_row = block.first_row + len(block.rows) - 1
    with blame(JobError, f"filters, rows {block.first_row:,} to {last_row:,}"):
        return judge_rows(block.rows, block.lengths, rules)


class _Processes:
    """The other processes. They start with the first block for them, and end with the context."""

    def __init__(self, rules: PromptFilters) -> None:
        self.rules = rules
        self.count = max(0, min(_cores() - 1, MAX_PROCESSES)) if rules.are_slow else 0
        self.limit = 4 * QUEUED * (self.count + 1)
        """Most blocks whose outcomes wait for those of an earlier one."""
        self.started: list[_Process] = []

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="cai-")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            for process in self.started:
                process.end()
        finally:
            self._folder.cleanup()

    def take(self, block: _Block) -> _Ticket | None:
        """Give the block to a process; None: all have enough to do."""
        if self.count and not self.started:
            self._start()
        free = min(self.started, key=_Process.queued, default=None)
        if free is None or free.queued() >= QUEUED:
            return None
        with write_errors(self.folder):
            save_block(self.folder, block.number, block.rows, block.lengths)
        return _Ticket(block, None, free, free.send(block.number))

    def is_done(self, ticket: _Ticket) -> bool:
        return ticket.process is None or ticket.process.has_answered(ticket.turn)

    def outcomes(self, ticket: _Ticket) -> Outcomes:
        """The outcomes of a block, which are waited for."""
        if ticket.outcomes is not None:
            return ticket.outcomes
        if ticket.process is None or ticket.process.failed(ticket.turn):
            # once more here, where it fails as it does without other processes
            return _judged(ticket.block, self.rules)
        path = outcomes_file(self.folder, ticket.block.number)
        outcomes = load_outcomes(path)
        path.unlink()
        return outcomes

    @property
    def folder(self) -> Path:
        return Path(self._folder.name)

    def _start(self) -> None:
        with write_errors(self.folder):
            save_settings(self.folder, self.rules)
        try:
            while len(self.started) < self.count:
                self.started.append(_Process(self.folder))
        except OSError:  # the system has no room for one more: those that run are enough
            self.count = len(self.started)


class _Process:
    """One process, which answers each line with a line; see `cai.data.filter_worker`."""

    def __init__(self, folder: Path) -> None:
        # -P, and the path of this process: a file in the working folder is no module
        paths = os.pathsep.join(path for path in sys.path if path)
        self._errors = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", "cai.data.filter_worker", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": paths},
            process_group=0,  # Ctrl-C reaches this process alone, which ends the other
        )
        self._input = cast(IO[bytes], self._process.stdin)
        self._output = cast(IO[bytes], self._process.stdout)
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._sent = 0
        self._answers: list[bytes] = []
        self._unread = b""

    def send(self, number: int) -> int:
        """Give it a block; which one of its blocks that is."""
        try:
            self._input.write(f"{number}\n".encode())
        except BrokenPipeError:
            raise self._ended() from None
        self._sent += 1
        return self._sent - 1

    def queued(self) -> int:
        """Blocks that it has not answered."""
        while self._read(wait=False):
            pass
        return self._sent - len(self._answers)

    def has_answered(self, turn: int) -> bool:
        return self._sent - self.queued() > turn

    def failed(self, turn: int) -> bool:
        """Whether it failed on a block, once it has answered."""
        while len(self._answers) <= turn:
            self._read(wait=True)
        return self._answers[turn] != b""

    def _read(self, wait: bool) -> bool:
        """Read what it wrote; whether there was anything."""
        if not wait and not self._poll.poll(0):
            return False
        data = self._output.read(4096)
        if not data:
            raise self._ended()
        *lines, self._unread = (self._unread + data).split(b"\n")
        self._answers += lines
        return True

    def _ended(self) -> JobError:
        code = self._process.wait()
        self._errors.seek(0)
        last_line = self._errors.read()[-1000:].decode(errors="replace").strip().rpartition("\n")[2]
        how = f"signal {-code}" if code < 0 else f"exit code {code}: {last_line}"
        return JobError(
            f"filters: a process beside this one ended by itself ({how}): free some memory, or run "
            "on one core (`taskset -c 0 cai …`), where no other process is started"
        )

    def end(self) -> None:
        """End it now, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()
        self._errors.close()


def _cores() -> int:
    """The cores that this process may use: of several under torchrun, its share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
