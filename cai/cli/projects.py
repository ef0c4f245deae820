"""The command that begins a project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command(epilog="Example: cai init my-project, then cai run my-project/run.yaml")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="A new or empty folder.")],
) -> None:
    """Write a commented run, a constitution that extends `harmless`, and prompts to begin with."""
    from cai.pipeline.project import create_project

    for file in create_project(folder):
        print(file)
    print(
        f"\nnext: edit {folder / 'constitution.yaml'}, check it, and run:\n"
        f"  cai check {folder / 'constitution.yaml'}\n"
        f"  cai run {folder / 'run.yaml'}"
    )
