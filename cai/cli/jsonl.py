"""File tools: JSONL in, the same lines with more fields out. Order and fields stay; a file cut short is gone on with."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cai.errors import StoreError, UsageError

if TYPE_CHECKING:
    from cai.lm import LM
    from cai.lm.budget import Budget
    from cai.records import Prompt

Input = Annotated[Path, typer.Option("--input", help="JSONL; - is standard input.")]
Output = Annotated[Path, typer.Option("--output", help="JSONL: the same lines with fields added; - is standard output.")]
STREAM = Path("-")


class Line(NamedTuple):
    place: str
    """file:line"""
    data: dict[str, Any]
    prompt: Prompt


Step = Callable[[Line], Awaitable[dict[str, Any]]]
"""The fields to add to a line."""
Make = Callable[[Sequence[Line]], list[dict[str, Any]]]
"""The same for the lines of a window."""


def read_lines(source: Path, texts: Sequence[str] = ()) -> Iterator[Line]:
    """Lines with `prompt` or `chat`, perhaps `kind` and `category`, and those fields that `texts` names.

    Raises:
        StoreError: a line is wrong, as file:line.
    """
    from cai.data.readers import FIELDS, chat_from
    from cai.records import Prompt
    from cai.store import json_lines, parse_row

    for number, data in json_lines(source):
        place = f"{source}:{number}"
        for name in texts:
            if not isinstance(data.get(name), str):
                raise StoreError(f"{place}: a line needs `{name}` (text)")
        known = {name: data[name] for name in FIELDS if data.get(name) is not None}
        asked: dict[str, Any] = {name: data[name] for name in ("prompt", "chat", "messages") if name in data}
        yield Line(place, data, parse_row(known | {"chat": chat_from(asked, place)}, Prompt, place))


def at_once(step: Step, lm: LM) -> Make:
    """All lines of a window in flight together; connections are closed after each window."""
    from cai.async_map import gather

    async def window(lines: Sequence[Line]) -> list[dict[str, Any]]:
        try:
            return await gather([step(line) for line in lines])
        finally:
            await lm.aclose()

    return lambda lines: asyncio.run(window(lines))


def each_line(rows: Iterator[Line], output: Path, make: Make, *, max_concurrency: int, label: str = "") -> None:
    """Append each line with what `make` adds, `max_concurrency` lines at a time; lines that `output` has already are passed over."""
    from cai import store
    from cai.progress import progress_bars

    streaming = output == STREAM
    done = 0
    if not streaming and output.exists():
        store.truncate_torn_line(output)
        done = sum(1 for _ in store.json_lines(output))

    left = islice(rows, done, None)
    with progress_bars() as progress:
        bar = progress(label) if label else lambda done, total: None
        while lines := list(islice(left, max_concurrency)):
            added = make(lines)
            text = "".join(json.dumps(x.data | more, ensure_ascii=False) + "\n" for x, more in zip(lines, added, strict=True))
            if streaming:
                sys.stdout.buffer.write(text.encode())
                sys.stdout.flush()
            else:
                store.append_bytes(output, text.encode())
            done += len(lines)
            bar(done, done + (len(lines) == max_concurrency))
    if not streaming and not output.exists():
        store.atomic_write(output, "")


def open_logged(model: str, output: Path, connections: int | None = None, budget: Budget | None = None) -> LM:
    """The model; calls to an endpoint are counted against `budget`, and logged beside `output`: none is paid for twice."""
    from cai.lm import open_lm
    from cai.lm.budget import MeteredLM, Prices
    from cai.lm.caching import CachedLM
    from cai.lm.http import HttpConfig, HttpLM
    from cai.lm.request_log import RequestLog

    lm: LM = open_lm(model, None if connections is None else HttpConfig(connections=connections))
    if not isinstance(lm, HttpLM):
        return lm
    if budget is not None:
        lm = MeteredLM(lm, budget, Prices())
    return lm if output == STREAM else CachedLM(lm, RequestLog(output.with_suffix(".requests.sqlite")))


def limits(command: str, max_cost: float | None, max_tokens: int | None, max_hours: float | None) -> Budget:
    """The limits of a file tool.

    Raises:
        UsageError: money is limited, and no prices are known.
    """
    from cai.lm.budget import Budget

    if max_cost is not None:
        raise UsageError(f"{command}: --max-cost needs prices, which stand in a run's YAML: limit --max-tokens or --max-hours")
    return Budget(max_tokens=max_tokens, max_hours=max_hours)


def needed(command: str, settings: list[str] | None, **options: object) -> None:
    """Every option of a file tool that was not given, and settings that only a run has.

    Raises:
        UsageError: there is one.
    """
    missing = [f"--{name}" for name, value in options.items() if value is None]
    if missing:
        raise UsageError(f"{command}: give RUN.yaml, or --{', --'.join(options)} (missing: {', '.join(missing)})")
    if settings:
        raise UsageError(f"{command}: --set changes a run's YAML: give one")


def alone(command: str, file: Path | None, **options: object) -> None:
    """A run's YAML says all that a file tool's options do.

    Raises:
        UsageError: both are given.
    """
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if file is not None and given:
        raise UsageError(f"{command}: {file} and {', '.join(given)}: give a run's YAML or a file tool's options, not both")
