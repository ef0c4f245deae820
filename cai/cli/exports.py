"""The command that exports a run's data for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cai.cli.silence import quiet
from cai.errors import UsageError

app = typer.Typer()


@app.command(
    epilog="Example: cai export runs/quickstart --output exports/quickstart --license cc-by-4.0"
)
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")],
    output: Annotated[
        Path, typer.Option("--output", help="A new folder for the tables and their cards.")
    ],
    to: Annotated[
        Literal["trl", "datasets", "areal", "openrlhf", "verifiers", "verl", "inspect", "hub"],
        typer.Option(
            help="trl: Parquet in TRL's columns, as the Hub takes it; datasets: folders for "
            "load_from_disk; areal, openrlhf, verifiers, verl: prompts, and the plug-in for "
            "`cai serve-reward`; "
            "inspect: the evaluation's replies, as samples; "
            "hub: the models and the tables, each as a repository of the Hugging Face Hub."
        ),
    ] = "trl",
    license: Annotated[
        str | None, typer.Option(help="License for the card, as the Hub spells it.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Language for the card: en, ja, ...")
    ] = None,
    upload: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="With --to hub: send the folders to private repositories of this name, with the "
            "token in HF_TOKEN. An export that is there already is sent as it is.",
        ),
    ] = None,
) -> None:
    """Export a run's fine-tuning rows, preferences and prompts as tables, with a dataset card.

    `--to hub` adds copies of the models with their cards, and lists what an upload would send.
    """
    if upload is not None and to != "hub":
        raise UsageError("--upload: only with --to hub")
    quiet()
    if to == "hub":
        _export_for_hub(run, output, upload, license=license, language=language)
        return
    if to == "areal" or to == "openrlhf" or to == "verifiers" or to == "verl":
        from cai.integrations.export_engines import PLUGINS, export_engine

        count = export_engine(run, output, to)
        print(f"{output}: {count:,} prompts, and the plug-in {PLUGINS[to][1]}")
        return
    from cai.integrations.export import export

    if to == "inspect":
        from cai.integrations.inspect_samples import export_inspect

        for subject, count in export_inspect(run, output).items():
            print(f"{output / subject}.jsonl: {count:,} replies")
        return
    form: Literal["datasets", "parquet"] = "datasets" if to == "datasets" else "parquet"
    counts = export(run, output, form=form, license=license, language=language)
    for name, count in counts.items():
        print(f"{output / name}: {count:,} rows")


def _export_for_hub(
    run: Path, output: Path, upload: str | None, *, license: str | None, language: str | None
) -> None:
    from cai.integrations.hub import check_upload, export_for_hub, hub_folders, upload_folders

    token = None if upload is None else check_upload(upload)
    if upload is not None and output.is_dir():
        folders = hub_folders(output)
    else:
        folders = export_for_hub(run, output, license=license, language=language)
    for folder in folders:
        name = folder.repository(upload or "OWNER/NAME")
        print(f"{folder.path} -> {folder.kind} {name}")
        for file, size in folder.files:
            print(f"  {file}: {size:,} bytes")
    if upload is None or token is None:
        print("Nothing was sent. To send it: the same command with --upload OWNER/NAME")
        return
    for address in upload_folders(folders, upload, token):
        print(f"sent to {address}")
