"""Commands that execute a run: all its stages, or one of them. The forecast is in plan.py."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.artifacts import STAGES
from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.pipeline.config import ResolvedRun
    from cai.progress import Progress

app = typer.Typer()
RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run's settings.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one setting; repeatable."),
]
MaxCost = Annotated[
    float | None,
    typer.Option(help="Stop before calls to endpoints cost more (by `prices`)."),
]
MaxTokens = Annotated[
    int | None, typer.Option(help="Stop before calls to endpoints take more tokens.")
]
MaxHours = Annotated[
    float | None, typer.Option(help="Stop calling endpoints after this many hours.")
]


@dataclass(frozen=True)
class SpendingLimits:
    """Limits of a command's calls to endpoints; None is no limit."""

    max_cost: float | None = None
    """In the currency of the run's `prices`."""
    max_tokens: int | None = None
    max_hours: float | None = None

    def of_this_process(self) -> SpendingLimits:
        """An equal share of cost and tokens for each of torchrun's processes."""
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        return SpendingLimits(
            None if self.max_cost is None else self.max_cost / processes,
            None if self.max_tokens is None else self.max_tokens // processes,
            self.max_hours,
        )


@app.command(epilog="Example: cai run examples/quickstart.yaml --set ppo.num_updates=20")
def run(
    file: RunFile,
    first: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help=f"First stage: {', '.join(STAGES)}."),
    ] = None,
    last: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="Last stage.")
    ] = None,
    settings: Settings = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARTEFACT",
            help="Take a finished artefact, such as 10-revisions.jsonl, as it is now, although it "
            "was edited; repeatable.",
        ),
    ] = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
) -> None:
    """Execute the stages of a run. Finished stages are skipped; a half-finished one is resumed."""
    for name in (first, last):
        if name is not None and name not in STAGES:
            raise UsageError(f"no such stage: {name}; stages: {', '.join(STAGES)}")
    start = STAGES.index(first or STAGES[0])
    stop = STAGES.index(last or STAGES[-1])
    if stop < start:
        raise UsageError(f"--until {last} comes before --from {first}: nothing to do")
    limits = SpendingLimits(max_cost, max_tokens, max_hours)
    execute_run(file, STAGES[start : stop + 1], settings, limits, accept or ())


def execute_run(
    file: Path,
    stages: tuple[str, ...],
    settings: list[str] | None,
    limits: SpendingLimits,
    accept: Sequence[str] = (),
) -> None:
    """Execute stages of a run, and print times, spending and the scores.

    Under torchrun only the process of rank 0 prints.

    Args:
        accept: artefacts to take as they are, although they were edited.
    """
    quiet()
    from cai.lm.budget import Budget
    from cai.pipeline.config import load_run
    from cai.pipeline.context import open_run
    from cai.pipeline.runner import run_stages
    from cai.progress import progress_bars

    resolved = load_run(file, settings or [])
    is_first_process = os.environ.get("RANK", "0") == "0"
    started = time.monotonic()
    with progress_bars() as progress:
        bars = progress if is_first_process else _no_progress
        budget = Budget(**asdict(limits.of_this_process()))
        ctx = open_run(resolved, bars, budget, lambda line: print(line, file=sys.stderr))
        if is_first_process and len(stages) > 1:
            print_memory(resolved)
        try:
            run_stages(
                ctx,
                stages,
                lambda stage, seconds: _print_stage(stage, seconds, ctx.nulls.get(stage, "")),
                accept,
            )
        finally:
            if ctx.budget.calls:
                print(f"calls   {ctx.budget.summary()}", file=sys.stderr)
    if is_first_process:
        _print_results(resolved.folder, stages, time.monotonic() - started)


def print_memory(resolved: ResolvedRun) -> None:
    """What the stages may take of the memory, before they do."""
    from cai.modeling.model_files import local_model_name

    if local_model_name(resolved.run.model) is None:
        return  # and the seconds that torch takes to import are saved
    from cai.pipeline.memory_plan import memory_lines

    for line in memory_lines(resolved):
        print(line, file=sys.stderr, flush=True)


def _no_progress(name: str) -> Progress:
    return lambda done, total: None


def _print_results(folder: Path, stages: tuple[str, ...], seconds: float) -> None:
    from cai.artifacts import SCORES

    scores = folder / SCORES
    if {"eval", "report"} & set(stages) and scores.exists():
        from cai.report.sections import read_scores
        from cai.report.table import headline

        print_table(headline(read_scores(scores)), 120)
    if "report" in stages:
        print(f"report: {folder / 'report.html'}   ({seconds:.0f} s)")


def _print_stage(stage: str, seconds: float, nulls: str) -> None:
    """One line per finished stage; the memory is the process's highest so far."""
    units_per_gib = 1 << 30 if sys.platform == "darwin" else 1 << 20  # bytes, or KiB on Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units_per_gib
    line = f"{stage:>8}  {seconds:6.1f} s   peak memory {peak:.1f} GiB"
    print(f"{line}   {nulls}" if nulls else line, file=sys.stderr)


def _add_stage_command(name: str, doc: str) -> None:
    def command(
        file: RunFile,
        settings: Settings = None,
        max_cost: MaxCost = None,
        max_tokens: MaxTokens = None,
        max_hours: MaxHours = None,
    ) -> None:
        execute_run(file, (name,), settings, SpendingLimits(max_cost, max_tokens, max_hours))

    command.__doc__ = doc
    app.command(name, epilog=f"Example: cai {name} examples/quickstart.yaml")(command)


_add_stage_command("sft", "Stage of a run: fine-tune on the revisions.")
_add_stage_command("pair", "Stage of a run: sample two replies per prompt, from the SFT model.")
_add_stage_command("reward", "Stage of a run: train the preference model on the labels.")
_add_stage_command("ppo", "Stage of a run: PPO on preference model and rubric, with a KL penalty.")


@app.command(epilog="Example: cai report runs/seed-0 runs/seed-1 --output seeds.md")
def report(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN.yaml...",
            help="The run's settings, or its folder; several to compare them.",
        ),
    ],
    settings: Settings = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="With several runs: the comparison, as Markdown, or as a page if it ends in .html."
        ),
    ] = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
) -> None:
    """Stage of a run: write report.html from the run's files. Of several runs: compare them.

    The comparison has the runs' headline tables, and the mean paired change over the runs with an
    interval over runs and prompts. It names settings, other than the seed, that differ.
    """
    if len(files) == 1:
        if output is not None:
            raise UsageError(
                "--output: the report of one run is report.html in its folder;"
                " give several runs to compare them"
            )
        limits = SpendingLimits(max_cost, max_tokens, max_hours)
        execute_run(files[0], ("report",), settings, limits)
    else:
        _compare(files, settings or [], output)


def _compare(files: Sequence[Path], settings: list[str], output: Path | None) -> None:
    from contextlib import nullcontext

    from cai.artifacts import SCORES
    from cai.cli.output_files import replaced_output, write_output
    from cai.pipeline.config import load_run
    from cai.report.several_runs import markdown, notes, page, read_run, rich_table, tables

    resolved = [load_run(file, settings) for file in files]
    folders = [run.folder.resolve() for run in resolved]
    for index, folder in enumerate(folders):
        if folder in folders[:index]:
            raise UsageError(f"{files[index]}: a run that is given already: name each run once")
    sources = [folder / SCORES for folder in folders]
    with replaced_output(output, "report", *sources) if output else nullcontext():
        runs = [
            read_run(one.folder, load_run(one.folder).run.model_dump(mode="json"))
            for one in resolved
        ]
        for table in tables(runs):
            print_table(rich_table(table), 160)
        print("\n".join(notes(runs)))
        if output:
            write = page if output.suffix.lower() in (".html", ".htm") else markdown
            write_output(output, "report", write(runs))
