"""The command that calibrates a grading model: a temperature per proposition."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from cai.cli.endpoint_options import EndpointOptions, open_logged, with_endpoint_options
from cai.cli.jsonl import Line, read_replies
from cai.cli.rubrics import extension_yaml
from cai.cli.silence import quiet
from cai.errors import StoreError

if TYPE_CHECKING:
    from cai.constitution.schema import GradeExample
    from cai.lm import LM

app = typer.Typer()


@app.command(
    epilog="Example: cai calibrate --constitution mine.yaml --model smollm2 "
    "--input labelled.jsonl --output calibrated.yaml"
)
@with_endpoint_options("calibrate")
def calibrate(
    constitution: Annotated[str, typer.Option(help="A constitution with a rubric.")],
    model: Annotated[str, typer.Option(help="The grading model.")],
    source: Annotated[
        Path,
        typer.Option(
            "--input", help="JSONL: {prompt or chat, response, propositions: {id: true or false}}."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", help="A constitution that adds the temperatures.")
    ],
    *,
    endpoint: EndpointOptions,
) -> None:
    """Fit a temperature per proposition that calibrates a grading model's probabilities."""
    from cai.cli.null_rows import print_null_rows
    from cai.cli.output_files import replaced_output, write_output
    from cai.constitution import find_constitution, load_with_rubric
    from cai.rubric import compile_rubric

    quiet()
    reasons: Counter[str | None] = Counter()
    with replaced_output(output, "calibrate", source, find_constitution(constitution)):
        loaded, rubric = load_with_rubric(constitution)
        compiled = compile_rubric(rubric)
        temperatures: dict[str, float] = {}
        with open_logged(model, output, endpoint) as lm:
            for id, rows in _read_labels(source, compiled.questions).items():
                question = compiled.questions[id]
                known = _answered(rows, lm, loaded.examples.grade, question, reasons)
                temperature = _fit_temperature(id, known)
                if temperature is not None:
                    temperatures[id] = temperature
        added = extension_yaml(output, constitution, loaded, {"temperatures": temperatures})
        write_output(output, "calibrate", added)
    print_null_rows("calibrate", reasons)


def _answered(
    rows: Sequence[tuple[Line, bool]],
    lm: LM,
    shots: tuple[GradeExample, ...],
    question: str,
    reasons: Counter[str | None],
) -> list[tuple[float, bool]]:
    """(log-odds, label) of the rows about which the model answers `question`.

    Args:
        reasons: why rows are null -> how many; counted up.
    """
    from cai.async_map import map_in_memory
    from cai.errors import UnansweredError
    from cai.rubric.llm_grader import log_odds

    async def ask(row: _LabelledLine) -> tuple[float | None, str | None]:
        line = row.line
        try:
            odds = await log_odds(lm, shots, line.prompt.chat, line.replies[0], question)
        except UnansweredError as error:
            return None, error.reason
        return odds, None if odds is not None else "the model said neither Yes nor No"

    async def ask_all() -> list[tuple[float | None, str | None]]:
        try:
            numbered = [_LabelledLine(str(n), line) for n, (line, _) in enumerate(rows)]
            return await map_in_memory(numbered, ask, max_concurrency=lm.max_concurrency)
        finally:
            await lm.aclose()

    answers = asyncio.run(ask_all())
    reasons.update(reason for _, reason in answers)
    pairs = zip(answers, rows, strict=True)
    return [(odds, holds) for (odds, _), (_, holds) in pairs if odds is not None]


class _LabelledLine(NamedTuple):
    id: str
    line: Line


def _read_labels(source: Path, known_ids: Container[str]) -> dict[str, list[tuple[Line, bool]]]:
    """Proposition id -> lines, each with whether the proposition holds for it.

    Raises:
        StoreError: a line is wrong, or names a proposition that is not in `known_ids`.
    """
    labelled: dict[str, list[tuple[Line, bool]]] = {}
    for line in read_replies(source, parsed=("propositions",)):
        labels = line.data.get("propositions")
        if not isinstance(labels, dict) or not all(isinstance(x, bool) for x in labels.values()):
            raise StoreError(f"{line.location}: a line needs `propositions` (id: true or false)")
        for id, holds in labels.items():
            if id not in known_ids:
                raise StoreError(
                    f"{line.location}: propositions.{id}: the rubric has no such proposition"
                )
            labelled.setdefault(id, []).append((line, holds))
    return labelled


def _fit_temperature(id: str, pairs: list[tuple[float, bool]]) -> float | None:
    """The temperature for one proposition's (log-odds, label) pairs.

    None where the labels are all equal: there is nothing to fit.
    """
    from cai.rubric.llm_grader import fit_temperature, log_loss

    odds = [value for value, _ in pairs]
    labels = [holds for _, holds in pairs]
    if len(set(labels)) < 2:
        print(
            f"{id}: left alone: needs answered replies of both sorts (has {len(pairs)})",
            file=sys.stderr,
        )
        return None
    fitted = round(fit_temperature(odds, labels), 4)
    before, after = log_loss(odds, labels, 1.0), log_loss(odds, labels, fitted)
    print(f"{id}: temperature {fitted:.2f}, log loss {before:.3f} -> {after:.3f} (n={len(pairs)})")
    return fitted
