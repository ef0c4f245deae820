"""The command that forecasts a run: what it takes here, and what many prompts take elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.output import print_table
from cai.cli.runs import MaxCost, MaxHours, MaxTokens, RunFile, Settings, print_memory
from cai.cli.silence import quiet
from cai.errors import JobError, UsageError

if TYPE_CHECKING:
    from cai.simulation.machines import Machine
    from cai.simulation.workload import Workload

app = typer.Typer()
DEFAULT_PROMPTS = "10000,1000000,100000000"
MOST_PROMPTS = 10**12


@app.command(epilog="Example: cai plan examples/endpoint.yaml --probe 20")
def plan(
    file: RunFile,
    settings: Settings = None,
    probe: Annotated[
        int, typer.Option(min=1, help="Rows to try per stage; the run reuses their answers.")
    ] = 20,
    machine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE.yaml",
            help="Simulate revise, pair and label for many prompts on this machine: cpu, h100, "
            "h100-64, batch-queue, or a file of yours; repeatable.",
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help=f"With --machine: how many prompts.  [default: {DEFAULT_PROMPTS}]",
        ),
    ] = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
) -> None:
    """Estimate the calls, tokens, cost and hours of each stage of a run, with 95 % intervals.

    Given a limit, exit 1 if the estimate exceeds it. The limit holds for the probe as well. With
    --machine, simulate hours and money for other numbers of prompts on other machines.
    """
    quiet()
    from cai.lm.budget import Budget
    from cai.pipeline.batches import batch_cost_line
    from cai.pipeline.config import load_run
    from cai.pipeline.context import open_run
    from cai.pipeline.estimate import exceeded_limits, forecast_table, plan
    from cai.progress import progress_bars
    from cai.store import locked

    machines, sizes = _machines(machine, prompts)
    resolved = load_run(file, settings or [])
    with progress_bars() as progress, locked(resolved.folder):
        budget = Budget(max_cost=max_cost, max_tokens=max_tokens, max_hours=max_hours)
        ctx = open_run(resolved, progress, budget, lambda line: print(line, file=sys.stderr))
        try:
            forecasts = plan(ctx, probe)
        finally:
            if budget.calls:
                print(f"calls   {budget.summary()}", file=sys.stderr)
    print_table(forecast_table(forecasts), 140)
    if line := batch_cost_line(forecasts, resolved.run.prices):
        print(line)
    print_memory(resolved)
    works = [f.work for f in forecasts if f.work is not None]
    if machines:
        _print_simulation(machines, works, sizes, resolved.run.seed)
    exceeded = exceeded_limits(forecasts, budget)
    if exceeded:
        raise JobError("; ".join(exceeded))


def _machines(names: Sequence[str] | None, prompts: str | None) -> tuple[list[Machine], list[int]]:
    """The machines and numbers of prompts that the options name, checked before anything is tried.

    Raises:
        UsageError: a number is none, or there is no machine for them.
        ConfigError: no such machine, or mistakes in its file.
    """
    if not names:
        if prompts is not None:
            raise UsageError("--prompts: numbers of prompts for --machine, which is missing")
        return [], []
    from cai.simulation.machines import load_machine

    sizes = []
    for text in (prompts or DEFAULT_PROMPTS).split(","):
        digits = text.strip().replace("_", "")
        if not (digits.isascii() and digits.isdigit() and 0 < int(digits[:20]) <= MOST_PROMPTS):
            raise UsageError(
                f"--prompts: {text[:40]!r} is no whole number from 1 to {MOST_PROMPTS:,}: "
                f"write {DEFAULT_PROMPTS}"
            )
        sizes.append(int(digits))
    return [load_machine(name) for name in names], sizes


def _print_simulation(
    machines: Sequence[Machine], works: Sequence[Workload], sizes: Sequence[int], seed: int
) -> None:
    from cai.simulation.forecast import assumptions, forecast_machine
    from cai.simulation.table import simulation_table

    if not works:
        print("simulation: no stage calls a model for each prompt: nothing to simulate")
        return
    results = [
        forecast_machine(machine, works, size, seed) for machine in machines for size in sizes
    ]
    print_table(simulation_table(results), 160)
    for machine in machines:
        title, *lines = assumptions(machine, works)
        print(title)
        for line in lines:
            print(f"- {line}")
