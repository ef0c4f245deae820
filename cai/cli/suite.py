"""`cai eval --suite FILE.yaml`: the evaluations that a file lists, of one model, opened once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cai.cli.file_tools import FileToolOptions
from cai.errors import JobError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from cai.catalog.entries import EvaluationEntry
    from cai.cli.model_evaluation import Evaluated, Evaluation
    from cai.records import Score


@dataclass(frozen=True)
class SuiteJob:
    """What the command line says of a suite."""

    options: FileToolOptions
    """`suite`, `model`, `output` (a folder), and the endpoint's options."""
    constitution: str
    """Its rubric grades replies, where an entry names no other."""
    seed: int
    limit: int | None
    """Rows of the data of each entry, at most; None: as the file says."""


def evaluate_suite(job: SuiteJob) -> None:
    """Run the entries of the file one after the other, and print a table of all scores.

    An entry that cannot run is named on standard error; the others run.

    Raises:
        ConfigError: the file is wrong.
        StoreError: another process writes into the folder.
        JobError: an entry failed, at the end.
    """
    from cai.catalog.entries import SUITE_SCORES, load_suite
    from cai.cli.model_evaluation import Evaluation, open_models, score_lines
    from cai.cli.output import print_table
    from cai.cli.output_files import make_folder, replaced_output, write_output

    options, folder = job.options, job.options.path("output")
    entries = load_suite(options.path("suite"))
    make_folder(folder)
    output = folder / f"{SUITE_SCORES}.jsonl"
    results: dict[str, Evaluated] = {}
    scores: list[Score] = []
    with (
        replaced_output(output, "eval", options.path("suite")),
        open_models(output, options.endpoint) as models,
    ):
        evaluation = Evaluation(options.text("model"), models, options.endpoint)
        for entry in entries:
            labelled = replace(evaluation, label=f"eval {entry.title}")
            try:
                results[entry.title] = _evaluate_entry(job, entry, labelled)
            except UsageError as error:
                print(f"eval: {entry.title}: {error}", file=sys.stderr)
                continue
            scores += entry.labelled(results[entry.title].scores)
        write_output(output, "eval", score_lines(scores))
    print_table(_table(results), 120)
    failed = [entry.title for entry in entries if entry.title not in results]
    if failed:
        raise JobError(f"eval: {len(failed)} of {len(entries)} failed: {', '.join(failed)}")


def _evaluate_entry(job: SuiteJob, entry: EvaluationEntry, evaluation: Evaluation) -> Evaluated:
    """Write an entry's rows and scores into the folder.

    Raises:
        UsageError: its data, a file that it uses, or an output is wrong.
    """
    from cai.cli.model_evaluation import score_lines
    from cai.cli.null_rows import print_null_rows
    from cai.cli.output_files import replaced_output, write_output

    task = entry.task(constitution=job.constitution, seed=job.seed, rows_seed=job.seed)
    if job.limit is not None:
        task = replace(task, limit=min(job.limit, task.limit or job.limit))
    output = job.options.path("output") / f"{entry.title}.jsonl"
    with replaced_output(output, "eval", task.data):
        result = evaluation.of(task, output.with_suffix(".items.jsonl"))
        write_output(output, "eval", score_lines(entry.labelled(result.scores)))
    print_null_rows(evaluation.label, result.reasons)
    return result


def _table(results: Mapping[str, Evaluated]) -> Table:
    """A row per metric, the first of an entry with its title."""
    from rich.table import Table
    from rich.text import Text

    table = Table("evaluation", "metric", "mean", "95 % interval", "n", "unscored")
    for title, result in results.items():
        for number, score in enumerate(result.scores):
            low, high = map(_number, (score.ci_low, score.ci_high))
            interval = "–" if score.ci_low is None else f"{low} … {high}"
            cells = (title if number == 0 else "", score.metric, _number(score.mean), interval)
            table.add_row(*map(Text, cells), str(score.n), str(score.unscored))
        table.add_section()
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
