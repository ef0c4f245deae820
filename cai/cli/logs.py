"""Commands on a run's request log."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from cai.cli.output import print_table

log = typer.Typer(
    name="log",
    help="The request log of a run: what endpoints were asked, and what they said.",
    epilog="Example: cai log stats runs/mine/requests.sqlite",
    no_args_is_help=True,
)
LogFile = Annotated[Path, typer.Argument(metavar="LOG", help="A run's requests.sqlite.")]


@log.command("stats", epilog="Example: cai log stats runs/mine/requests.sqlite")
def log_stats(file: LogFile) -> None:
    """Calls, tokens and seconds of waiting, by model and kind."""
    from rich.table import Table

    from cai.lm.request_log import RequestLog

    table = Table("model", "kind", *(f"{name}" for name in ("calls", "prompt tokens", "completion tokens", "s a call")))
    for model, kind, calls, prompt, completion, seconds in RequestLog(file, create=False).stats():
        table.add_row(model, kind, f"{calls:,}", f"{prompt:,}", f"{completion:,}", f"{seconds / calls:.3f}")
    print_table(table, 140)


@log.command("export", epilog="Example: cai log export runs/mine/requests.sqlite > calls.jsonl")
def log_export(file: LogFile) -> None:
    """Every call as a JSON line on standard output: request, raw answer, tokens, time. It holds no keys."""
    from cai.lm.request_log import RequestLog

    for row in RequestLog(file, create=False).rows():
        print(json.dumps(row, ensure_ascii=False))


@log.command("prune", epilog="Example: cai log prune runs/mine/requests.sqlite --older-than 30")
def log_prune(
    file: LogFile,
    older_than: Annotated[float | None, typer.Option(metavar="DAYS", help="Only calls made before so many days.")] = None,
    model: Annotated[str | None, typer.Option(help="Only calls of this model, as `cai log stats` names it.")] = None,
) -> None:
    """Forget calls. They are made again, and paid for again, when a stage needs them."""
    from cai.lm.request_log import RequestLog

    before = None if older_than is None else time.time() - older_than * 86400
    print(f"{RequestLog(file, create=False).prune(before=before, model=model)} calls forgotten")
