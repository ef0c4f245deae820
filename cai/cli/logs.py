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
    help="The request log of a run: the requests to endpoints, and their answers.",
    epilog="Example: cai log stats runs/mine/requests.sqlite",
    no_args_is_help=True,
)
LogFile = Annotated[Path, typer.Argument(metavar="LOG", help="A run's requests.sqlite.")]
SECONDS_PER_DAY = 86400


@log.command("stats", epilog="Example: cai log stats runs/mine/requests.sqlite")
def log_stats(file: LogFile) -> None:
    """Print calls, tokens and mean latency in seconds, by model and kind."""
    from rich.table import Table

    from cai.lm.request_log import RequestLog

    table = Table("model", "kind", "calls", "prompt tokens", "completion tokens", "s a call")
    rows = RequestLog(file, create=False).stats()
    for model, kind, calls, prompt_tokens, completion_tokens, seconds in rows:
        counts = [f"{count:,}" for count in (calls, prompt_tokens, completion_tokens)]
        table.add_row(model, kind, *counts, f"{seconds / calls:.3f}")
    print_table(table, 140)


@log.command("export", epilog="Example: cai log export runs/mine/requests.sqlite > calls.jsonl")
def log_export(file: LogFile) -> None:
    """Print every call as a JSON line: request, raw answer, tokens, time. It holds no API keys."""
    from cai.lm.request_log import RequestLog

    for row in RequestLog(file, create=False).rows():
        print(json.dumps(row, ensure_ascii=False))


@log.command("prune", epilog="Example: cai log prune runs/mine/requests.sqlite --older-than 30")
def log_prune(
    file: LogFile,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Only calls older than this many days.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Only calls of this model, as `cai log stats` names it.")
    ] = None,
) -> None:
    """Delete logged calls. A stage that needs one makes it again, and it is paid for again."""
    from cai.lm.request_log import RequestLog

    before = None if older_than is None else time.time() - older_than * SECONDS_PER_DAY
    count = RequestLog(file, create=False).prune(before=before, model=model)
    print(f"{count} calls deleted")
