"""The command sweep: a grid of runs over settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cai.artifacts import SCORES, STAGES
from cai.cli.output import print_table
from cai.cli.output_files import make_folder
from cai.cli.runs import (
    MaxCost,
    MaxHours,
    MaxTokens,
    RunFile,
    Settings,
    SpendingLimits,
    execute_run,
)
from cai.cli.silence import quiet

app = typer.Typer()
PAGE = "sweep.html"


@app.command(
    epilog="Example: cai sweep examples/quickstart.yaml 'ppo.kl.coef=[0.01, 0.05, 0.2]' "
    "--output runs/kl"
)
def sweep(
    file: RunFile,
    settings_grid: Annotated[
        list[str],
        typer.Argument(metavar="KEY=[VALUE,...]...", help="Settings with the values to try."),
    ],
    output: Annotated[
        Path, typer.Option("--output", help="Folder of the runs, and of sweep.html.")
    ],
    settings: Settings = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
) -> None:
    """Run all combinations of some settings, and chart the policies.

    Stages before the first that the settings decide are run once and copied. A killed sweep goes on
    where it was. Limits hold for each run. The best figure of many runs is too good: choose with
    `evaluate_on: dev`, and report a run of another seed.
    """
    quiet()
    from cai.cli.output_files import replaced_output, write_output
    from cai.pipeline.sweep import first_decided_stage, grid, share_artefacts
    from cai.report.sections import read_scores
    from cai.report.sweep import policy_scores, sweep_page, sweep_table

    variants = grid(settings_grid)
    shared_until = first_decided_stage([key for key, _ in variants[0].values])
    limits = SpendingLimits(max_cost, max_tokens, max_hours)
    folders = {variant.name: output / variant.name for variant in variants}
    make_folder(output)
    with replaced_output(output / PAGE, "sweep", file):
        for number, variant in enumerate(variants, start=1):
            folder = folders[variant.name]
            print(f"sweep: run {number} of {len(variants)}: {variant.name}", file=sys.stderr)
            if number > 1:
                share_artefacts(folders[variants[0].name], folder, shared_until)
            overrides = [*(settings or []), *variant.settings, f"folder={json.dumps(str(folder))}"]
            execute_run(file, STAGES, overrides, limits)
        runs = {
            name: policy_scores(read_scores(folder / SCORES)) for name, folder in folders.items()
        }
        print_table(sweep_table(runs), 160)
        write_output(output / PAGE, "sweep", sweep_page(f"{file.stem}: {output.name}", runs))
    print(f"sweep: {output / PAGE}")
