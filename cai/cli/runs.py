"""Commands that walk a run: all of it, or one stage."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cai.artifacts import STAGES
from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import JobError, UsageError

app = typer.Typer()
RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run's settings.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one setting; repeatable.")]
MaxCost = Annotated[float | None, typer.Option(help="Stop before calls to endpoints cost more (by `prices` in RUN.yaml).")]
MaxTokens = Annotated[int | None, typer.Option(help="Stop before calls to endpoints take more tokens.")]
MaxHours = Annotated[float | None, typer.Option(help="Stop asking endpoints after so many hours.")]


@app.command(epilog="Example: cai run examples/quickstart.yaml --set ppo.updates=20")
def run(
    file: RunFile,
    first: Annotated[str | None, typer.Option("--from", metavar="STAGE", help=f"First stage: {', '.join(STAGES)}.")] = None,
    last: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Last stage.")] = None,
    settings: Settings = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
) -> None:
    """Walk all stages of a run. Finished ones are skipped, a half-finished one is gone on with."""
    for name in (first, last):
        if name is not None and name not in STAGES:
            raise UsageError(f"no such stage: {name}; stages: {', '.join(STAGES)}")
    start, stop = STAGES.index(first or STAGES[0]), STAGES.index(last or STAGES[-1])
    if stop < start:
        raise UsageError(f"--until {last} comes before --from {first}: nothing to do")
    walk_run(file, STAGES[start : stop + 1], settings, max_cost=max_cost, max_tokens=max_tokens, max_hours=max_hours)


def walk_run(file: Path, names: tuple[str, ...], settings: list[str] | None, **limits: Any) -> None:
    quiet()
    from cai.artifacts import SCORES
    from cai.lm.budget import Budget
    from cai.pipeline.config import load_run
    from cai.pipeline.context import open_run
    from cai.pipeline.runner import run_stages
    from cai.progress import progress_bars

    loaded, first = load_run(file, settings or []), os.environ.get("RANK", "0") == "0"
    started = time.monotonic()
    with progress_bars() as progress:
        bars = progress if first else lambda told: lambda done, total: None  # one of torchrun's processes speaks for all
        ctx = open_run(loaded, bars, Budget(**_part(limits)), lambda line: print(line, file=sys.stderr))
        try:
            run_stages(ctx, names, _tell)
        finally:
            if ctx.budget.calls:
                print(f"calls   {ctx.budget.summary()}", file=sys.stderr)
    scores = loaded.folder / SCORES
    if not first:
        return
    if {"eval", "report"} & set(names) and scores.exists():
        from cai.records import Score
        from cai.report.table import headline
        from cai.store import read

        print_table(headline(list(read(scores, Score))), 120)
    if "report" in names:
        print(f"report: {loaded.folder / 'report.html'}   ({time.monotonic() - started:.0f} s)")


def _part(limits: dict[str, Any]) -> dict[str, Any]:
    """Of money and tokens, what each of torchrun's processes may spend."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    shared = {"max_cost": limits.get("max_cost"), "max_tokens": limits.get("max_tokens")}
    return limits | {key: value / count if key == "max_cost" else value // count for key, value in shared.items() if value}


def _tell(stage: str, seconds: float) -> None:
    """One line per finished stage; the memory is the process's highest so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform != "darwin" else 1 << 30)
    print(f"{stage:>8}  {seconds:6.1f} s   peak memory {peak:.1f} GiB", file=sys.stderr)


@app.command(epilog="Example: cai plan examples/endpoint.yaml --probe 20")
def plan(
    file: RunFile,
    settings: Settings = None,
    probe: Annotated[int, typer.Option(min=1, help="Rows to try per stage; their answers are kept for the run.")] = 20,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
) -> None:
    """Say what a run will take before it is begun: calls, tokens, money and hours per stage, with 95 % intervals.

    With a limit, exit 1 when more than that is to be expected; the probe keeps to it too.
    """
    quiet()
    from cai.lm.budget import Budget
    from cai.pipeline.config import load_run
    from cai.pipeline.context import open_run
    from cai.pipeline.estimate import over, plan, table
    from cai.progress import progress_bars
    from cai.store import locked

    loaded = load_run(file, settings or [])
    with progress_bars() as progress, locked(loaded.folder):
        budget = Budget(max_cost=max_cost, max_tokens=max_tokens, max_hours=max_hours)
        found = plan(open_run(loaded, progress, budget), probe)
    print_table(table(found), 140)
    if broken := over(found, budget):
        raise JobError("; ".join(broken))


def _stage(name: str, doc: str) -> None:
    def command(
        file: RunFile,
        settings: Settings = None,
        max_cost: MaxCost = None,
        max_tokens: MaxTokens = None,
        max_hours: MaxHours = None,
    ) -> None:
        walk_run(file, (name,), settings, max_cost=max_cost, max_tokens=max_tokens, max_hours=max_hours)

    command.__doc__ = doc
    app.command(name, epilog=f"Example: cai {name} examples/quickstart.yaml")(command)


_stage("sft", "Stage of a run: fine-tune on the revisions.")
_stage("pair", "Stage of a run: draw two replies per prompt from the fine-tuned model.")
_stage("reward", "Stage of a run: train the preference model on the labels.")
_stage("ppo", "Stage of a run: PPO against preference model and rubric, with KL control.")
_stage("report", "Stage of a run: write report.html from the files of the run.")
