"""The command that grades replies by a rubric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cai.cli.added_fields import (
    Batch,
    FieldsTarget,
    LineStep,
    append_batches,
    append_fields,
    batch_with_fields,
    concurrently,
)
from cai.cli.columns import Columns, column_names, column_provenance
from cai.cli.endpoint_options import EndpointOptions, open_logged, with_endpoint_options
from cai.cli.jsonl import (
    STREAM,
    Input,
    Line,
    LocatedRow,
    Output,
    Prefix,
    read_replies,
    reply_line,
    reply_rows,
)
from cai.cli.silence import quiet
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.constitution import Constitution
    from cai.constitution.schema import Rubric
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
LONG_INPUT = 16 << 20
"""Bytes of input from which on several processes grade it."""
MOST_PROCESSES = 8
"""More would wait for the one that reads and writes."""


@app.command(
    name="grade",
    epilog="Example: cai grade --constitution harmless --input replies.jsonl --output grades.jsonl",
)
@with_endpoint_options("grade")
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
    *,
    endpoint: EndpointOptions,
) -> None:
    """Grade replies by the rubric. Fields and order are kept; an output cut short is resumed."""
    from cai.cli.output_files import refuse_input_as_output
    from cai.constitution import load_with_rubric
    from cai.rubric import compile_rubric

    quiet()
    loaded, rubric = load_with_rubric(constitution)
    files = GradeFiles(source, column_names(columns, ("response",)), output, prefix or "")
    tool = GradeTool(loaded, compile_rubric(rubric), files, ask_all, explain)
    if model is not None:
        with open_logged(model, output, endpoint) as lm:
            refuse_input_as_output(output, source)
            grade_by_model(tool, lm, endpoint.answer_settings(model))
        return
    if given := endpoint.given():
        raise UsageError(f"grade: {', '.join(given)}: only with --model, which names an endpoint")
    if tool.compiled.model_questions:
        names = ", ".join(tool.compiled.model_questions)
        raise UsageError(
            f"{constitution}: only a model can decide {names}: name one (--model), or give patterns"
        )
    refuse_input_as_output(output, source)
    _grade_by_patterns(tool, rubric)


class GradeFiles(NamedTuple):
    source: Path
    columns: dict[str, str]
    output: Path
    prefix: str


@dataclass(frozen=True)
class GradeTool:
    """What grades a file's replies, and how."""

    constitution: Constitution
    compiled: CompiledRubric
    files: GradeFiles
    ask_all: bool
    explain: bool

    def rows(self) -> Iterator[Line]:
        return read_replies(self.files.source, self.files.columns)

    def target(self, model: str, settings: Mapping[str, str], show_progress: bool) -> FieldsTarget:
        from cai.store import digest

        return FieldsTarget(
            self.files.output,
            "grade",
            GRADE_FIELDS | {"explanation"} if self.explain else GRADE_FIELDS,
            {
                "constitution": digest(self.constitution),
                "model": model,
                "ask_all": str(self.ask_all),
                "explain": str(self.explain),
                **column_provenance(self.files.columns),
                **settings,
            },
            show_progress=show_progress,
            prefix=self.files.prefix,
        )

    def fields(self, line: Line, result: Grade) -> dict[str, Any]:
        return _grade_fields(line, result, self.compiled if self.explain else None)


@dataclass(frozen=True)
class PatternGrading:
    """What a process needs to grade rows without a model; it can be pickled."""

    rubric: Rubric
    columns: dict[str, str]
    explain: bool
    target: FieldsTarget


def _grade_by_patterns(tool: GradeTool, rubric: Rubric) -> None:
    from cai.process_map import map_in_processes, usable_cores

    files = tool.files
    target = tool.target("patterns", {}, show_progress=False)
    grading = PatternGrading(rubric, files.columns, tool.explain, target)
    processes = min(usable_cores(), MOST_PROCESSES) if _is_long(files.source) else 1

    def finish(batches: Iterable[Sequence[LocatedRow]]) -> Iterator[Batch]:
        if processes == 1:
            return map(_batch_grader(grading, tool.compiled), batches)
        return map_in_processes(partial(_start_grading, grading), batches, processes=processes)

    append_batches(
        reply_rows(files.source, files.columns),
        target,
        finish,
        batch_size=1 if files.source == STREAM else LINES_PER_WRITE,
    )


def _is_long(source: Path) -> bool:
    """Whether several processes grade the input sooner than one, though they take time to start."""
    if str(source).startswith("hub:"):
        return True
    files = source.rglob("*") if source.is_dir() else [source]
    return sum(file.stat().st_size for file in files if file.is_file()) >= LONG_INPUT


def _start_grading(grading: PatternGrading) -> Callable[[Sequence[LocatedRow]], Batch]:
    from cai.rubric import compile_rubric

    return _batch_grader(grading, compile_rubric(grading.rubric))


def _batch_grader(
    grading: PatternGrading, compiled: CompiledRubric
) -> Callable[[Sequence[LocatedRow]], Batch]:
    """Rows -> their lines with a grade."""
    from cai.rubric import Ungraded, grade_many, unscored_grade

    explained_by = compiled if grading.explain else None

    def grade_lines(lines: Sequence[Line]) -> list[dict[str, Any]]:
        replies = [
            Ungraded(line.prompt.chat[-1].content, line.replies[0], line.prompt.kind)
            for line in lines
            if line.no_reply is None
        ]
        grades = iter(grade_many(compiled, replies))
        results = [
            next(grades) if line.no_reply is None else unscored_grade({}, line.no_reply)
            for line in lines
        ]
        return [
            _grade_fields(line, result, explained_by)
            for line, result in zip(lines, results, strict=True)
        ]

    def grade_batch(rows: Sequence[LocatedRow]) -> Batch:
        lines = [reply_line(row, grading.columns) for row in rows]
        return batch_with_fields(lines, grading.target, grade_lines)

    return grade_batch


def model_step(tool: GradeTool, lm: LM) -> LineStep:
    """The grade of a line, with propositions that a model decides."""
    from cai.rubric import unscored_grade
    from cai.rubric.llm_grader import grade_with_model

    async def grade_line(line: Line) -> dict[str, Any]:
        if line.no_reply is not None:
            return tool.fields(line, unscored_grade({}, line.no_reply))
        result = await grade_with_model(
            lm,
            tool.compiled,
            tool.constitution.examples.grade,
            chat=line.prompt.chat,
            kind=line.prompt.kind,
            response=line.replies[0],
            everything=tool.ask_all,
        )
        return tool.fields(line, result)

    return grade_line


def grade_by_model(tool: GradeTool, lm: LM, settings: Mapping[str, str]) -> None:
    """Grade a file's replies with a model."""
    append_fields(
        tool.rows(),
        tool.target(lm.fingerprint, settings, show_progress=True),
        concurrently(model_step(tool, lm), lm),
        batch_size=lm.max_concurrency,
    )


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
