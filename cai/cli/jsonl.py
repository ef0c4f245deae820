"""JSONL in, the same lines with more fields out.

Order and fields of the lines are kept. An output that was cut short is resumed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cai.errors import StoreError

if TYPE_CHECKING:
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


def append_fields(
    rows: Iterator[Line], output: Path, step: BatchStep, *, batch_size: int, label: str = ""
) -> None:
    """Append each line, with the fields that `step` adds, to `output`.

    Lines that `output` has already are skipped.

    Args:
        rows: lines of the input.
        output: JSONL; `-` is standard output.
        step: the fields to add.
        batch_size: lines processed and written together.
        label: of the progress bar; no bar without one.
    """
    from cai import store
    from cai.progress import progress_bars

    streaming = output == STREAM
    done = 0
    if not streaming and output.exists():
        store.truncate_torn_line(output)
        done = sum(1 for _ in store.json_lines(output))

    remaining = islice(rows, done, None)
    with progress_bars() as progress:
        bar = progress(label) if label else lambda done, total: None
        while lines := list(islice(remaining, batch_size)):
            data = _with_fields(lines, step(lines)).encode()
            if streaming:
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
            else:
                store.append_bytes(output, data)
            done += len(lines)
            is_last = len(lines) < batch_size
            bar(done, done if is_last else done + 1)  # how many lines are left is unknown
    if not streaming and not output.exists():
        store.atomic_write(output, "")


def _with_fields(lines: Sequence[Line], added: Sequence[dict[str, Any]]) -> str:
    rows = [line.data | fields for line, fields in zip(lines, added, strict=True)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
