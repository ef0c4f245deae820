"""JSONL in, the same lines with more fields out.

Order and fields of the lines are kept. An output that was cut short is resumed, and its rows that
an endpoint left unanswered for now are asked again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cai.errors import StoreError

if TYPE_CHECKING:
    from cai.cli.output_files import FinishedRows
    from cai.lm import LM
    from cai.records import Prompt

Input = Annotated[Path, typer.Option("--input", help="JSONL; - is standard input.")]
Output = Annotated[
    Path,
    typer.Option("--output", help="JSONL: the same lines with fields added; - is standard output."),
]
STREAM = Path("-")


class Line(NamedTuple):
    location: str
    """file:line"""
    data: dict[str, Any]
    prompt: Prompt


LineStep = Callable[[Line], Awaitable[dict[str, Any]]]
"""Line -> the fields to add to it."""
BatchStep = Callable[[Sequence[Line]], list[dict[str, Any]]]
"""The same for several lines."""


def read_lines(source: Path, required: Sequence[str] = ()) -> Iterator[Line]:
    """Lines with `prompt` or `chat`, optionally `kind` and `category`.

    Args:
        source: JSONL; `-` is standard input.
        required: names of text fields that each line must have.

    Raises:
        StoreError: a line is wrong, as file:line.
    """
    from cai.data.readers import FIELDS, chat_from
    from cai.records import Prompt
    from cai.store import json_lines, parse_row

    for number, data in json_lines(source):
        location = f"{source}:{number}"
        for name in required:
            if not isinstance(data.get(name), str):
                raise StoreError(f"{location}: a line needs `{name}` (text)")
        fields = {name: data[name] for name in FIELDS if data.get(name) is not None}
        chat_keys = ("prompt", "chat", "messages")
        given: dict[str, Any] = {name: data[name] for name in chat_keys if name in data}
        fields["chat"] = chat_from(given, location)
        yield Line(location, data, parse_row(fields, Prompt, location))


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
    """Names of the fields that it adds; no input line may have one of them."""
    provenance: Mapping[str, str]
    """What decides them: digests of constitution and settings, model fingerprint, seed."""
    show_progress: bool = True


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
    from cai.cli.null_rows import print_null_rows
    from cai.cli.output_files import FinishedRows, is_stream, owned_output, read_finished
    from cai.store import append_bytes

    finished = FinishedRows()
    if is_stream(target.path):
        _write_batches(rows, target, step, batch_size, _stream_writer(target.path), finished)
    else:
        with owned_output(target.path, target.command, target.provenance):
            finished = read_finished(target.path, rows)
            write = partial(append_bytes, target.path)
            _write_batches(rows, target, step, batch_size, write, finished)
            _ask_again(target, step, batch_size, finished)
    print_null_rows(target.command, finished.reasons)


def _stream_writer(path: Path) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        if path == STREAM:
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
        else:
            with path.open("ab") as stream:
                stream.write(data)

    return write


def _write_batches(
    rows: Iterator[Line],
    target: FieldsTarget,
    step: BatchStep,
    batch_size: int,
    write: Callable[[bytes], None],
    finished: FinishedRows,
) -> None:
    from cai.cli.null_rows import null_reason
    from cai.cli.output_files import refuse_collision
    from cai.progress import progress_bars

    done = finished.reasons.total()
    with progress_bars() as progress:
        bar = progress(target.command) if target.show_progress else lambda done, total: None
        while lines := list(islice(rows, batch_size)):
            for line in lines:
                refuse_collision(line, target.fields)
            added = step(lines)
            write(_with_fields(lines, added).encode())
            finished.reasons.update(null_reason(fields) for fields in added)
            done += len(lines)
            is_last = len(lines) < batch_size
            bar(done, done if is_last else done + 1)  # how many lines are left is unknown


def _ask_again(
    target: FieldsTarget, step: BatchStep, batch_size: int, finished: FinishedRows
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
            output[number - 1] = _with_fields([line], [fields]).rstrip("\n")
    # the last write: the file has another inode now, so that the lock holds the old one only
    atomic_write(target.path, "\n".join(output))


def _with_fields(lines: Sequence[Line], added: Sequence[dict[str, Any]]) -> str:
    rows = [line.data | fields for line, fields in zip(lines, added, strict=True)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
