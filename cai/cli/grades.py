"""Commands that grade replies by a rubric, and that calibrate a grading model."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cai.cli.quiet import quiet
from cai.errors import ConfigError, StoreError, UsageError

if TYPE_CHECKING:
    from cai.constitution import Constitution
    from cai.constitution.schema import Rubric
    from cai.lm import LM
    from cai.records import Grade, Prompt
    from cai.rubric import Compiled

app = typer.Typer()
Source = Annotated[Path, typer.Option("--input", help="JSONL: {prompt or chat, response, kind?}; - is standard input.")]
ALONE = 256
"""Lines graded between two writes where no model is asked."""


class Line(NamedTuple):
    data: dict[str, Any]
    prompt: Prompt
    response: str


@app.command(name="grade", epilog="Example: cai grade --constitution harmless --input replies.jsonl --output grades.jsonl")
def grade_replies(
    constitution: Annotated[str, typer.Option(help="A constitution with a rubric.")],
    source: Source,
    output: Annotated[
        Path, typer.Option("--output", help="JSONL: the same lines with the grade's fields added; - is the screen.")
    ],
    model: Annotated[str | None, typer.Option(help="Asked about propositions that patterns leave open or unsure.")] = None,
    ask_all: Annotated[bool, typer.Option("--ask-all", help="With --model: ask it about every proposition.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Add what decided each grade, as lines of text.")] = False,
) -> None:
    """Grade replies by the rubric. Keeps every field and the order; a file cut short by a kill is gone on with."""
    from cai import store
    from cai.rubric import compile_rubric

    quiet()
    loaded, rubric = _with_rubric(constitution)
    compiled = compile_rubric(rubric)
    lm = _open(model) if model else None
    if compiled.asked and lm is None:
        raise UsageError(
            f"{constitution}: only a model can decide {', '.join(compiled.asked)}: name one (--model), or give patterns"
        )
    done = 0
    if str(output) != "-" and output.exists():
        store.mend(output)
        done = sum(1 for _ in store.json_lines(output))
    rows = islice(_lines(source), done, None)
    while window := list(islice(rows, lm.width if lm else ALONE if str(source) != "-" else 1)):
        grades = asyncio.run(_grades(window, lm, loaded, compiled, ask_all))
        text = "".join(_told(row, found, compiled, explain) for row, found in zip(window, grades, strict=True)).encode()
        if str(output) == "-":
            sys.stdout.buffer.write(text)
            sys.stdout.flush()
        else:
            store.append_bytes(output, text)


async def _grades(
    window: list[Line], lm: LM | None, constitution: Constitution, compiled: Compiled, ask_all: bool
) -> list[Grade]:
    from cai.rubric import grade
    from cai.rubric.ask import grade_with
    from cai.store import together

    if lm is None:
        return [grade(compiled, prompt=r.prompt.chat[-1].content, response=r.response, kind=r.prompt.kind) for r in window]
    shots = constitution.examples.grade
    asked = [
        grade_with(lm, compiled, shots, chat=r.prompt.chat, response=r.response, kind=r.prompt.kind, everything=ask_all)
        for r in window
    ]
    try:
        return await together(asked)
    finally:
        if (close := getattr(lm, "aclose", None)) is not None:
            await close()


def _told(row: Line, found: Grade, compiled: Compiled, explained: bool) -> str:
    from cai.rubric.explain import explain

    added = found.model_dump(mode="json", exclude={"id", "source"}, by_alias=True)
    if explained:
        asked, kind = row.prompt.chat[-1].content, row.prompt.kind
        added["explanation"] = explain(compiled, found, prompt=asked, response=row.response, kind=kind)
    return json.dumps(row.data | added, ensure_ascii=False) + "\n"


def _lines(source: Path) -> Iterator[Line]:
    from cai.hygiene.inputs import chat_from
    from cai.records import Prompt
    from cai.store import json_lines, parse_row

    for number, data in json_lines(source):
        place = f"{source}:{number}"
        if not isinstance(data.get("response"), str):
            raise StoreError(f"{place}: a line needs `response` (text)")
        prompt = parse_row({"chat": chat_from(data, place), "kind": data.get("kind")}, Prompt, place)
        yield Line(data, prompt, data["response"])


def _with_rubric(constitution: str) -> tuple[Constitution, Rubric]:
    from cai.constitution import find, load

    loaded = load(find(constitution))
    if loaded.rubric is None:
        raise ConfigError(f"{constitution}: no rubric in it")
    return loaded, loaded.rubric


def _open(model: str) -> LM:
    from cai.lm import open_lm

    return open_lm(model)


@app.command(
    epilog="Example: cai calibrate --constitution mine.yaml --model smollm2 --input labelled.jsonl --output calibrated.yaml"
)
def calibrate(
    constitution: Annotated[str, typer.Option(help="A constitution with a rubric.")],
    model: Annotated[str, typer.Option(help="The grading model.")],
    source: Annotated[
        Path, typer.Option("--input", help="JSONL: {prompt or chat, response, propositions: {id: true or false}}.")
    ],
    output: Annotated[Path, typer.Option("--output", help="A constitution that adds the temperatures.")],
) -> None:
    """Find, per proposition, by what to divide a model's log-odds so that its probabilities can be believed."""
    import yaml

    from cai import store
    from cai.rubric import compile_rubric
    from cai.rubric.ask import log_loss, log_odds, temperature
    from cai.store import together

    quiet()
    loaded, rubric = _with_rubric(constitution)
    compiled, lm = compile_rubric(rubric), _open(model)
    labelled: dict[str, list[tuple[Line, bool]]] = {}
    for number, row in enumerate(_lines(source), 1):
        said = row.data.get("propositions")
        if not isinstance(said, dict) or not all(isinstance(value, bool) for value in said.values()):
            raise StoreError(f"{source}:{number}: a line needs `propositions` (id: true or false)")
        for id, value in said.items():
            if id not in compiled.questions:
                raise StoreError(f"{source}:{number}: propositions.{id}: the rubric has no such proposition")
            labelled.setdefault(id, []).append((row, value))

    async def ask(id: str) -> list[float | None]:
        shots, question = loaded.examples.grade, compiled.questions[id]
        return await together([log_odds(lm, shots, row.prompt.chat, row.response, question) for row, _ in labelled[id]])

    found: dict[str, float] = {}
    for id, rows in labelled.items():
        pairs = [(z, value) for z, (_, value) in zip(asyncio.run(ask(id)), rows, strict=True) if z is not None]
        if len({value for _, value in pairs}) < 2:
            print(f"{id}: left alone: needs answered replies of both sorts (has {len(pairs)})", file=sys.stderr)
            continue
        odds, holds = [z for z, _ in pairs], [value for _, value in pairs]
        found[id] = round(temperature(odds, holds), 4)
        before, after = log_loss(odds, holds, 1.0), log_loss(odds, holds, found[id])
        print(f"{id}: temperature {found[id]:.2f}, log loss {before:.3f} -> {after:.3f} (n={len(pairs)})")
    base = _named(constitution, output)
    said = {"name": loaded.name, "version": loaded.version, "extends": [base], "rubric": {"temperatures": found}}
    store.publish(output, yaml.safe_dump(said, sort_keys=False, allow_unicode=True))


def _named(constitution: str, beside: Path) -> str:
    """The constitution's file as a file beside it may name it."""
    import os

    from cai.constitution import find

    return os.path.relpath(find(constitution), beside.parent)
