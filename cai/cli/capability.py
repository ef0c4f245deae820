"""The command on benchmarks of capability, which other tools run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.integrations.capability_commands import CapabilityTasks

app = typer.Typer()


@app.command(epilog="Example: cai capability runs/quickstart --tasks arc_easy,hellaswag")
def capability(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_DIR|RESULTS...",
            help="The folder of a run; with --read: results of other tools, or folders of them.",
        ),
    ],
    read: Annotated[
        bool, typer.Option("--read", help="Read results, and print the changes from base.")
    ] = False,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks of lm-evaluation-harness, separated by commas.")
    ] = None,
    inspect_tasks: Annotated[
        str | None,
        typer.Option(help="Tasks of Inspect, separated by commas: inspect_evals/arc_easy, ..."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Samples of each task.")] = None,
    chat_template: Annotated[
        bool | None,
        typer.Option(
            "--chat-template/--no-chat-template",
            help="For lm-evaluation-harness; by default yes, if all models have one.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The script, instead of standard output; with --read: score rows."),
    ] = None,
) -> None:
    """Print the benchmark commands for a run's models, or read their results: the alignment tax.

    The benchmarks themselves are run by lm-evaluation-harness and Inspect (`pip install
    'cai[eval]'`).
    """
    quiet()
    if read:
        given = (tasks, inspect_tasks, limit, chat_template)
        if any(value is not None for value in given):
            raise UsageError("--read takes results as they are: leave out the options on tasks")
        _read(paths, output)
        return
    if len(paths) > 1:
        raise UsageError("give the folder of one run; --read takes several")
    from cai.integrations.capability_commands import CapabilityTasks

    chosen = CapabilityTasks(_names(tasks), _names(inspect_tasks), limit)
    if not chosen.lm_eval and not chosen.inspect:
        raise UsageError("name the tasks: --tasks arc_easy,... or --inspect-tasks cai/refusal,...")
    _write_script(paths[0], chosen, chat_template, output)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _write_script(
    run: Path, tasks: CapabilityTasks, chat_template: bool | None, output: Path | None
) -> None:
    from cai.cli.output_files import replaced_output, write_output
    from cai.integrations.capability_commands import (
        capability_script,
        has_chat_template,
        subject_models,
    )
    from cai.pipeline.config import load_run

    resolved = load_run(run)
    models, notes = subject_models(resolved.folder, resolved.run.model)
    for note in notes:
        print(f"left out: {note}", file=sys.stderr)
    if chat_template is None:
        chat_template = has_chat_template(models)
        if not chat_template:
            print("no chat template: not all models have one", file=sys.stderr)
    script = capability_script(resolved.folder, models, tasks, chat_template=chat_template)
    if output is None:
        print(script, end="")
        return
    with replaced_output(output, "capability"):
        write_output(output, "capability", script)
    print(f"{output}: run it with sh")


def _read(paths: Sequence[Path], output: Path | None) -> None:
    from contextlib import nullcontext

    from cai.cli.output_files import refuse_other_format, replaced_output, write_output
    from cai.integrations.capability_results import read_capability
    from cai.report.capability import change_table, score_table
    from cai.report.several_runs import rich_table
    from cai.statistics.benchmarks import benchmark_changes, benchmark_scores

    if output is not None:
        refuse_other_format(output)
    with replaced_output(output, "capability", *paths) if output else nullcontext():
        read = read_capability(paths)
        for note in read.notes:
            print(note, file=sys.stderr)
        if not read.results:
            raise UsageError(f"{paths[0]}: no result of any task in it")
        scores, changes = benchmark_scores(read.results), benchmark_changes(read.results)
        print_table(rich_table(score_table(scores, read.results)), 160)
        if changes:
            print_table(rich_table(change_table(changes)), 160)
        else:
            print("no change: that takes results of two of base, sft and policy", file=sys.stderr)
        if output:
            rows = [*scores, *(change.score for change in changes)]
            write_output(output, "capability", "".join(row.line() + "\n" for row in rows))
