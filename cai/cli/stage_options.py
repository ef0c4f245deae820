"""Options of commands that are a stage of a run, or a tool for a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai.cli.endpoint_options import SECTIONS
from cai.cli.jsonl import FORMATS

RunFile = Annotated[
    Path | None, typer.Argument(metavar="RUN.yaml", help="A run, of which this is one stage.")
]
ConstitutionName = Annotated[
    str | None,
    typer.Option("--constitution", help="Without RUN.yaml: the constitution with the principles."),
]
ModelSpec = Annotated[str | None, typer.Option("--model", help="Without RUN.yaml: the model.")]
Source = Annotated[
    Path | None,
    typer.Option("--input", help=f"Without RUN.yaml: {FORMATS}"),
]
Target = Annotated[
    Path | None,
    typer.Option("--output", help="The same lines with fields added; - is standard output."),
]
Seed = Annotated[
    int,
    typer.Option(help="Without RUN.yaml: the seed of random draws."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="Override one setting of the run; without RUN.yaml, give one of its sections "
        f"{' and '.join(SECTIONS)}, such as http.timeout=30; repeatable.",
    ),
]
REPLY_FIELDS = ("first", "second", "chosen", "rejected")
"""Fields of pairs that `--column` may name."""
