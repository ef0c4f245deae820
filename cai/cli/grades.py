"""Commands that grade replies by a rubric, and that calibrate a grading model."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.jsonl import STREAM, Input, Line, Output, at_once, each_line, open_logged, read_lines
from cai.cli.silence import quiet
from cai.errors import ConfigError, StoreError, UsageError

if TYPE_CHECKING:
    from cai.constitution import Constitution
    from cai.constitution.schema import Rubric
    from cai.records import Grade

app = typer.Typer()
ALONE = 256
"""Lines graded between two writes where no model is asked."""


@app.command(name="grade", epilog="Example: cai grade --constitution harmless --input replies.jsonl --output grades.jsonl")
def grade_replies(
    constitution: Annotated[str, typer.Option(help="A constitution with a rubric.")],
    source: Input,
    output: Output,
    model: Annotated[str | None, typer.Option(help="Asked about propositions that patterns leave open or unsure.")] = None,
    ask_all: Annotated[bool, typer.Option("--ask-all", help="With --model: ask it about every proposition.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Add what decided each grade, as lines of text.")] = False,
) -> None:
    """Grade replies by the rubric. Keeps every field and the order; a file cut short by a kill is gone on with."""
    from cai.rubric import compile_rubric, grade
    from cai.rubric.explain import explain as explanation
    from cai.rubric.llm_grader import grade_with

    quiet()
    loaded, rubric = with_rubric(constitution)
    compiled = compile_rubric(rubric)
    lm = open_logged(model, output) if model else None
    if compiled.asked and lm is None:
        named = ", ".join(compiled.asked)
        raise UsageError(f"{constitution}: only a model can decide {named}: name one (--model), or give patterns")

    def told(line: Line, found: Grade) -> dict[str, Any]:
        asked, kind = line.prompt.chat[-1].content, line.prompt.kind
        why = explanation(compiled, found, prompt=asked, response=line.data["response"], kind=kind) if explain else []
        return found.model_dump(mode="json", exclude={"id", "source"}, by_alias=True) | ({"explanation": why} if explain else {})

    def alone(line: Line) -> dict[str, Any]:
        asked, kind = line.prompt.chat[-1].content, line.prompt.kind
        return told(line, grade(compiled, prompt=asked, response=line.data["response"], kind=kind))

    rows = read_lines(source, ("response",))
    if lm is None:
        width = 1 if source == STREAM else ALONE
        each_line(rows, output, lambda lines: [alone(line) for line in lines], max_concurrency=width)
        return

    async def asking(line: Line) -> dict[str, Any]:
        about = {"chat": line.prompt.chat, "kind": line.prompt.kind, "response": line.data["response"]}
        return told(line, await grade_with(lm, compiled, loaded.examples.grade, **about, everything=ask_all))

    each_line(rows, output, at_once(asking, lm), max_concurrency=lm.max_concurrency, label="grade")


def with_rubric(constitution: str) -> tuple[Constitution, Rubric]:
    from cai.constitution import find, load_constitution

    loaded = load_constitution(find(constitution))
    if loaded.rubric is None:
        raise ConfigError(f"{constitution}: no rubric in it")
    return loaded, loaded.rubric


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
    from cai.async_map import gather
    from cai.rubric import compile_rubric
    from cai.rubric.llm_grader import log_loss, log_odds, temperature

    quiet()
    loaded, rubric = with_rubric(constitution)
    compiled, lm = compile_rubric(rubric), open_logged(model, output)
    labelled: dict[str, list[tuple[Line, bool]]] = {}
    for number, row in enumerate(read_lines(source, ("response",)), 1):
        said = row.data.get("propositions")
        if not isinstance(said, dict) or not all(isinstance(value, bool) for value in said.values()):
            raise StoreError(f"{source}:{number}: a line needs `propositions` (id: true or false)")
        for id, value in said.items():
            if id not in compiled.questions:
                raise StoreError(f"{source}:{number}: propositions.{id}: the rubric has no such proposition")
            labelled.setdefault(id, []).append((row, value))

    async def ask(id: str) -> list[float | None]:
        shots, question = loaded.examples.grade, compiled.questions[id]
        return await gather([log_odds(lm, shots, row.prompt.chat, row.data["response"], question) for row, _ in labelled[id]])

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
    base = named(constitution, output)
    said = {"name": loaded.name, "version": loaded.version, "extends": [base], "rubric": {"temperatures": found}}
    store.atomic_write(output, yaml.safe_dump(said, sort_keys=False, allow_unicode=True))


def named(constitution: str, beside: Path) -> str:
    """The constitution's file as a file beside it may name it."""
    from cai.constitution import find

    return os.path.relpath(find(constitution), beside.parent)
