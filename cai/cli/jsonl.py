"""Rows in, the same rows as lines of JSONL with more fields out.

Order and fields of the lines are kept. An output that was cut short is resumed, and its rows that
an endpoint left unanswered for now are asked again.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cai.errors import StoreError, UsageError

if TYPE_CHECKING:
    from cai.cli.output_files import FinishedRows
    from cai.lm import LM
    from cai.records import Prompt

FORMATS = "JSONL, JSON, CSV, Parquet, a folder or hub:OWNER/NAME#SPLIT; - is standard input (JSON)."
Input = Annotated[Path, typer.Option("--input", help=FORMATS)]
Output = Annotated[
    Path,
    typer.Option("--output", help="JSONL: the same lines with fields added; - is standard output."),
]
Prefix = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Begin the names of the added fields with this."),
]
STREAM = Path("-")
THOUGHT_FIELDS = {1: ("thought",), 2: ("first_thought", "second_thought")}
"""Replies of a line -> the fields that keep what was cut from them."""


class Line(NamedTuple):
    location: str
    """file:line"""
    data: dict[str, Any]
    prompt: Prompt
    replies: tuple[str, ...] = ()
    """The reply that a line has, or the two of a pair, without their thoughts."""
    thoughts: tuple[str | None, ...] = ()
    """What stood before each reply as its model's thought; None: nothing."""
    no_reply: str | None = None
    """Why there is nothing to judge: a reply that ends within its thought."""

    def thought_fields(self) -> dict[str, str | None]:
        """The fields that keep the thoughts; none, if no reply has one."""
        if not any(thought is not None for thought in self.thoughts):
            return {}
        return dict(zip(THOUGHT_FIELDS[len(self.thoughts)], self.thoughts, strict=True))


LineStep = Callable[[Line], Awaitable[dict[str, Any]]]
"""Line -> the fields to add to it."""
BatchStep = Callable[[Sequence[Line]], list[dict[str, Any]]]
"""The same for several lines."""


def line_with_replies(
    location: str, data: dict[str, Any], prompt: Prompt, replies: Sequence[str]
) -> Line:
    """A line whose replies are apart from their thoughts."""
    from cai.modeling.thoughts import CUT_THOUGHT, split_thoughts

    splits = [split_thoughts(reply) for reply in replies]
    is_cut = any(split.lacks_reply for split in splits)
    return Line(
        location,
        data,
        prompt,
        tuple(split.text for split in splits),
        tuple(split.thought for split in splits),
        CUT_THOUGHT if is_cut else None,
    )


def read_lines(source: Path, columns: Mapping[str, str] | None = None) -> Iterator[Line]:
    """Lines with a prompt, as `cai.data.readers.prompt_rows` reads it.

    Args:
        source: a file of any format that `cai clean` reads; `-` is standard input.
        columns: field -> the key that holds it.

    Raises:
        StoreError: a line is wrong, as file:line.
    """
    from cai.data.readers import located_rows, row_prompt
    from cai.data.tables import Cells

    for location, data in located_rows(source, Cells(frozenset((columns or {}).values()))):
        yield Line(location, data, row_prompt(data, location, columns))


def read_replies(
    source: Path, columns: Mapping[str, str] | None = None, parsed: Sequence[str] = ()
) -> Iterator[Line]:
    """Lines with a prompt and a reply.

    The reply is `response`, or TRL's `completion`, or the last turn of a conversation.

    Args:
        source: as for `read_lines`.
        columns: field -> the key that holds it.
        parsed: fields that hold numbers, or true and false, where all cells of a file are text.

    Raises:
        StoreError: a line is wrong, as file:line.
    """
    from cai.data.readers import located_rows, row_prompt
    from cai.data.replies import last_reply
    from cai.data.tables import Cells

    names = columns or {}
    texts = frozenset(("response", names.get("response", "response")))
    cells = Cells(texts | frozenset(names.values()), texts, frozenset(parsed))
    for location, data in located_rows(source, cells):
        reply = last_reply(data, location, columns)
        prompt = row_prompt(data, location, columns)
        yield line_with_replies(location, data, prompt, [reply])


def read_pairs(source: Path, columns: Mapping[str, str] | None = None) -> Iterator[Line]:
    """Lines with a prompt and two replies, in the shapes of `cai.data.reply_pairs`.

    Args:
        source: as for `read_lines`.
        columns: field -> the key that holds it.

    Raises:
        StoreError: a line is wrong, as file:line.
    """
    from cai.data.readers import located_rows
    from cai.data.reply_pairs import PAIR_CELLS, PairOptions, reply_pair

    options = PairOptions(columns or {}, reads_verdict=False)
    for location, data in located_rows(source, PAIR_CELLS):
        pair = reply_pair(data, location, options)
        if pair is None:
            raise StoreError(
                f"{location}: the two replies end different conversations: leave this row out"
            )
        yield line_with_replies(location, data, pair.prompt, (pair.first, pair.second))


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

    finished, thoughts = FinishedRows(), Counter[str]()
    rows = _counting_thoughts(rows, thoughts)
    if is_stream(target.path):
        _write_batches(rows, target, step, batch_size, _stream_writer(target.path), finished)
    else:
        with owned_output(target.path, target.command, target.all_provenance()):
            finished = read_finished(target.path, rows, target.prefix)
            write = partial(append_bytes, target.path)
            _write_batches(rows, target, step, batch_size, write, finished)
            _ask_again(target, step, batch_size, finished)
    print_null_rows(target.command, finished.reasons)
    if thoughts:
        fields = ", ".join(f"`{target.prefix}{name}`" for name in thoughts)
        total = thoughts.total()
        count = f"{total:,} " + ("reply" if total == 1 else "replies")
        print(
            f"{target.command}: {count} held a thought, which is kept in "
            f"{fields} and judged nowhere",
            file=sys.stderr,
        )


def _counting_thoughts(rows: Iterator[Line], counts: Counter[str]) -> Iterator[Line]:
    """The rows; the thoughts of each are counted by field."""
    for line in rows:
        counts.update(name for name, text in line.thought_fields().items() if text is not None)
        yield line


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
                names = frozenset(target.prefix + name for name in line.thought_fields())
                refuse_collision(line, target.written() | names)
            added = step(lines)
            write(_with_fields(lines, added, target.prefix).encode())
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
