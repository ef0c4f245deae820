"""Commands that grade replies by a rubric, and that calibrate a grading model."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.file_tools import open_logged
from cai.cli.jsonl import (
    STREAM,
    BatchStep,
    Columns,
    FieldsTarget,
    Input,
    Line,
    Output,
    Prefix,
    append_fields,
    column_names,
    concurrently,
    read_replies,
)
from cai.cli.rubrics import extension_yaml, load_with_rubric
from cai.cli.silence import quiet
from cai.errors import StoreError, UsageError

if TYPE_CHECKING:
    from cai.constitution import Constitution
    from cai.constitution.schema import GradeExample, Rubric
    from cai.lm import LM
    from cai.records import Grade
    from cai.rubric import CompiledRubric

app = typer.Typer()
GRADE_FIELDS = frozenset(
    {"propositions", "class", "style", "degree", "correct", "score", "unscored"}
)
"""Fields that a grade adds to a line."""
LINES_PER_WRITE = 256
"""Lines graded between two writes where no model is called."""


@app.command(
    name="grade",
    epilog="Example: cai grade --constitution harmless --input replies.jsonl --output grades.jsonl",
)
def grade_replies(
    constitution: Annotated[str, typer.Option(help="A constitution with a rubric.")],
    source: Input,
    output: Output,
    model: Annotated[
        str | None, typer.Option(help="Decides the propositions that patterns leave undecided.")
    ] = None,
    ask_all: Annotated[
        bool, typer.Option("--ask-all", help="With --model: it decides every proposition.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add the reasons of each grade, as lines of text.")
    ] = False,
    prefix: Prefix = None,
    columns: Columns = None,
) -> None:
    """Grade replies by the rubric. Fields and order are kept; an output cut short is resumed."""
    from cai.cli.output_files import refuse_input_as_output
    from cai.rubric import compile_rubric
    from cai.store import digest

    quiet()
    loaded, rubric = load_with_rubric(constitution)
    compiled = compile_rubric(rubric)
    lm = open_logged(model, output) if model else None
    if compiled.model_questions and lm is None:
        names = ", ".join(compiled.model_questions)
        raise UsageError(
            f"{constitution}: only a model can decide {names}: name one (--model), or give patterns"
        )
    rows = read_replies(source, column_names(columns, ("response",)))
    refuse_input_as_output(output, source)
    target = FieldsTarget(
        output,
        "grade",
        GRADE_FIELDS | {"explanation"} if explain else GRADE_FIELDS,
        {
            "constitution": digest(loaded),
            "model": lm.fingerprint if lm else "patterns",
            "ask_all": str(ask_all),
            "explain": str(explain),
        },
        show_progress=lm is not None,
        prefix=prefix or "",
    )
    explained_by = compiled if explain else None
    if lm is None:
        step = _grade_by_patterns(compiled, explained_by)
        batch_size = 1 if source == STREAM else LINES_PER_WRITE
    else:
        step = _grade_by_model(lm, compiled, loaded.examples.grade, ask_all, explained_by)
        batch_size = lm.max_concurrency
    append_fields(rows, target, step, batch_size=batch_size)


def _grade_by_patterns(compiled: CompiledRubric, explained_by: CompiledRubric | None) -> BatchStep:
    from cai.rubric import grade

    def fields(line: Line) -> dict[str, Any]:
        prompt, response = line.prompt.chat[-1].content, line.replies[0]
        result = grade(compiled, prompt=prompt, response=response, kind=line.prompt.kind)
        return _grade_fields(line, result, explained_by)

    return lambda lines: [fields(line) for line in lines]


def _grade_by_model(
    lm: LM,
    compiled: CompiledRubric,
    examples: tuple[GradeExample, ...],
    ask_all: bool,
    explained_by: CompiledRubric | None,
) -> BatchStep:
    from cai.rubric.llm_grader import grade_with_model

    async def fields(line: Line) -> dict[str, Any]:
        result = await grade_with_model(
            lm,
            compiled,
            examples,
            chat=line.prompt.chat,
            kind=line.prompt.kind,
            response=line.replies[0],
            everything=ask_all,
        )
        return _grade_fields(line, result, explained_by)

    return concurrently(fields, lm)


def _grade_fields(line: Line, result: Grade, explained_by: CompiledRubric | None) -> dict[str, Any]:
    """The fields of a grade, with an explanation by the rubric `explained_by` if there is one."""
    from cai.rubric.explain import explain

    fields = result.model_dump(mode="json", exclude={"id", "source"}, by_alias=True)
    if explained_by is not None:
        fields["explanation"] = explain(
            explained_by,
            result,
            prompt=line.prompt.chat[-1].content,
            response=line.replies[0],
            kind=line.prompt.kind,
        )
    return fields


@app.command(
    epilog="Example: cai calibrate --constitution mine.yaml --model smollm2 "
    "--input labelled.jsonl --output calibrated.yaml"
)
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
) -> None:
    """Fit a temperature per proposition that calibrates a grading model's probabilities."""
    from cai.cli.output_files import replaced_output, write_output
    from cai.constitution import find_constitution

    quiet()
    with replaced_output(output, "calibrate", source, find_constitution(constitution)):
        loaded, rubric = load_with_rubric(constitution)
        temperatures = _fit_temperatures(loaded, rubric, open_logged(model, output), source)
        added = {"temperatures": temperatures}
        write_output(output, "calibrate", extension_yaml(output, constitution, loaded, added))


def _fit_temperatures(
    constitution: Constitution, rubric: Rubric, lm: LM, source: Path
) -> dict[str, float]:
    """Proposition id -> temperature, of those in the file that one can be fitted for."""
    from cai.async_map import gather
    from cai.rubric import compile_rubric
    from cai.rubric.llm_grader import log_odds

    compiled = compile_rubric(rubric)
    labelled = _read_labels(source, compiled.questions)

    async def all_log_odds(id: str) -> list[float | None]:
        shots, question = constitution.examples.grade, compiled.questions[id]
        return await gather(
            [
                log_odds(lm, shots, line.prompt.chat, line.replies[0], question)
                for line, _ in labelled[id]
            ]
        )

    temperatures: dict[str, float] = {}
    for id, rows in labelled.items():
        answers = asyncio.run(all_log_odds(id))
        pairs = zip(answers, (holds for _, holds in rows), strict=True)
        known = [(odds, holds) for odds, holds in pairs if odds is not None]
        temperature = _fit_temperature(id, known)
        if temperature is not None:
            temperatures[id] = temperature
    return temperatures


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
