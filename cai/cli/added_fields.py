"""The output of the file tools: the lines of the input, with fields added.

Order and fields of the lines are kept. An output that was cut short is resumed, and its rows that
an endpoint left unanswered for now are asked again.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cai.cli.jsonl import STREAM, Line, LocatedT
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.cli.output_files import FinishedRows
    from cai.lm import LM

LineStep = Callable[[Line], Awaitable[dict[str, Any]]]
"""Line -> the fields to add to it."""
BatchStep = Callable[[Sequence[Line]], list[dict[str, Any]]]
"""The same for several lines."""


def concurrently(step: LineStep, lm: LM) -> BatchStep:
    """A batch step that runs `step` on all lines at the same time.

    The model's connections are closed after each batch, as each has an event loop of its own.
    """
    from cai.async_map import gather

    async def run_batch(lines: Sequence[Line]) -> list[dict[str, Any]]:
        try:
            return await gather([step(line) for line in lines])
        finally:
            await lm.aclose()

    return lambda lines: asyncio.run(run_batch(lines))


@dataclass(frozen=True)
class FieldsTarget:
    """The output of a file tool that adds fields to lines."""

    path: Path
    """JSONL; `-` is standard output."""
    command: str
    fields: frozenset[str]
    """Names of the fields that it adds."""
    provenance: Mapping[str, str]
    """What decides them: digests of constitution and settings, model fingerprint, seed."""
    show_progress: bool = True
    prefix: str = ""
    """Beginning of the fields' names in the output, where no input line may have one of them."""

    def __post_init__(self) -> None:
        if re.search(r"[^\w.-]", self.prefix):
            raise UsageError(
                f"--prefix {self.prefix!r}: use letters, digits, dots, dashes and underscores"
            )

    def written(self) -> frozenset[str]:
        """The fields' names in the output."""
        return frozenset(self.prefix + name for name in self.fields)

    def all_provenance(self) -> dict[str, str]:
        """The provenance with the prefix, if there is one."""
        return dict(self.provenance) | ({"prefix": self.prefix} if self.prefix else {})


class Batch(NamedTuple):
    """Lines with their fields, ready to be written."""

    text: bytes
    reasons: Counter[str | None]
    """Why rows are null -> how many; None: those that are not."""
    thoughts: Counter[str]
    """Field -> replies whose thought it keeps."""


def batch_with_fields(lines: Sequence[Line], target: FieldsTarget, step: BatchStep) -> Batch:
    """The lines with the fields that `step` adds.

    Raises:
        StoreError: a line has a field that would be overwritten.
    """
    from cai.cli.null_rows import null_reason
    from cai.cli.output_files import refuse_collision

    thoughts = Counter[str]()
    for line in lines:
        fields = line.thought_fields()
        refuse_collision(line, target.written() | {target.prefix + name for name in fields})
        thoughts.update(name for name, text in fields.items() if text is not None)
    added = step(lines)
    text = _with_fields(lines, added, target.prefix)
    return Batch(text.encode(), Counter(map(null_reason, added)), thoughts)


def append_fields(
    rows: Iterator[Line], target: FieldsTarget, step: BatchStep, *, batch_size: int
) -> None:
    """Write each line of the input, with the fields that `step` adds, to the target.

    Lines that the target has already are skipped, if they are those of the input.

    Args:
        rows: lines of the input.
        step: the fields to add.
        batch_size: lines processed and written together.

    Raises:
        UsageError, StoreError: the target is another's, or of another input; an input line has a
            field that would be overwritten.
    """

    def finish(batches: Iterable[Sequence[Line]]) -> Iterator[Batch]:
        return (batch_with_fields(lines, target, step) for lines in batches)

    def again(finished: FinishedRows[Line]) -> None:
        _ask_again(target, step, batch_size, finished)

    append_batches(rows, target, finish, batch_size=batch_size, again=again)


def append_batches(
    rows: Iterator[LocatedT],
    target: FieldsTarget,
    finish: Callable[[Iterable[Sequence[LocatedT]]], Iterator[Batch]],
    *,
    batch_size: int,
    again: Callable[[FinishedRows[LocatedT]], None] = lambda finished: None,
) -> None:
    """`append_fields`, with batches that are finished elsewhere.

    Args:
        finish: batches of rows -> the same with fields added, in their order.
        again: makes rows anew that an earlier command left unanswered.
    """
    from cai.cli.null_rows import print_null_rows
    from cai.cli.output_files import FinishedRows, is_stream, owned_output, read_finished
    from cai.store import append_bytes

    batches = finish(iter(lambda: list(islice(rows, batch_size)), []))
    if is_stream(target.path):
        finished = FinishedRows[LocatedT]()
        _write_batches(batches, target, batch_size, _stream_writer(target.path), finished)
    else:
        with owned_output(target.path, target.command, target.all_provenance()):
            finished = read_finished(target.path, rows, target.prefix)
            write = partial(append_bytes, target.path)
            _write_batches(batches, target, batch_size, write, finished)
            again(finished)
    print_null_rows(target.command, finished.reasons)
    _print_thoughts(target, finished.thoughts)


def _print_thoughts(target: FieldsTarget, thoughts: Counter[str]) -> None:
    if not thoughts:
        return
    fields = ", ".join(f"`{target.prefix}{name}`" for name in thoughts)
    total = thoughts.total()
    count = f"{total:,} " + ("reply" if total == 1 else "replies")
    print(
        f"{target.command}: {count} held a thought, which is kept in {fields} and judged nowhere",
        file=sys.stderr,
    )


def _write_batches(
    batches: Iterator[Batch],
    target: FieldsTarget,
    batch_size: int,
    write: Callable[[bytes], None],
    finished: FinishedRows[Any],
) -> None:
    from cai.progress import progress_bars

    done = finished.reasons.total()
    with progress_bars() as progress:
        bar = progress(target.command) if target.show_progress else lambda done, total: None
        for batch in batches:
            write(batch.text)
            finished.reasons += batch.reasons
            finished.thoughts += batch.thoughts
            done += batch.reasons.total()
            is_last = batch.reasons.total() < batch_size
            bar(done, done if is_last else done + 1)  # how many lines are left is unknown


def _stream_writer(path: Path) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        if path == STREAM:
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
        else:
            with path.open("ab") as stream:
                stream.write(data)

    return write


def _ask_again(
    target: FieldsTarget, step: BatchStep, batch_size: int, finished: FinishedRows[Line]
) -> None:
    """Make the rows anew that an earlier command left unanswered for now. Order and others stay."""
    from cai.cli.null_rows import null_reason
    from cai.store import atomic_write

    if not finished.unanswered:
        return
    print(
        f"{target.command}: {len(finished.unanswered)} unanswered rows are asked again",
        file=sys.stderr,
    )
    output = target.path.read_text(encoding="utf-8").split("\n")
    remaining = iter(finished.unanswered.items())
    while batch := dict(islice(remaining, batch_size)):
        lines = [line for line, _ in batch.values()]
        added = step(lines)
        for (number, (line, reason)), fields in zip(batch.items(), added, strict=True):
            finished.reasons[reason] -= 1
            finished.reasons[null_reason(fields)] += 1
            output[number - 1] = _with_fields([line], [fields], target.prefix).rstrip("\n")
    # the last write: the file has another inode now, so that the lock holds the old one only
    atomic_write(target.path, "\n".join(output))


def _with_fields(lines: Sequence[Line], added: Sequence[dict[str, Any]], prefix: str) -> str:
    rows = [
        line.data
        | {prefix + name: value for name, value in (fields | line.thought_fields()).items()}
        for line, fields in zip(lines, added, strict=True)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
