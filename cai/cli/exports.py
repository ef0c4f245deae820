"""The command that exports a run's data for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cai.cli.silence import quiet

app = typer.Typer()


@app.command(
    epilog="Example: cai export runs/quickstart --output exports/quickstart --license cc-by-4.0"
)
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")],
    output: Annotated[
        Path, typer.Option("--output", help="A new folder for the tables and their card.")
    ],
    to: Annotated[
        Literal["trl", "datasets", "openrlhf", "verl", "inspect"],
        typer.Option(
            help="trl: Parquet in TRL's columns, as the Hub takes it; datasets: folders for "
            "load_from_disk; openrlhf, verl: prompts, and the plug-in for `cai serve-reward`; "
            "inspect: the evaluation's replies, as samples."
        ),
    ] = "trl",
    license: Annotated[
        str | None, typer.Option(help="License for the card, as the Hub spells it.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Language for the card: en, ja, ...")
    ] = None,
) -> None:
    """Export a run's fine-tuning rows, preferences and prompts as tables, with a dataset card."""
    quiet()
    from cai.integrations.export import export, export_engine

    if to in ("openrlhf", "verl"):
        print(f"{output}: {export_engine(run, output, to):,} prompts, and {to}_reward.py")
        return
    if to == "inspect":
        from cai.integrations.inspect_samples import export_inspect

        for subject, count in export_inspect(run, output).items():
            print(f"{output / subject}.jsonl: {count:,} replies")
        return
    form: Literal["datasets", "parquet"] = "datasets" if to == "datasets" else "parquet"
    counts = export(run, output, form=form, license=license, language=language)
    for name, count in counts.items():
        print(f"{output / name}: {count:,} rows")
