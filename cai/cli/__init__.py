"""The command line: wiring only.

Exit codes: 0 done, 1 the job found or failed something, 2 wrong usage or unreadable input, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from cai.cli import constitutions, exports, file_commands, fit_preference, fit_rubric, grades, logs, prompts, redteam, runs, serve
from cai.errors import CaiError, UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    name="cai",
    help="Constitutional AI end to end: from a constitution in YAML to a measurably safer model.",
    epilog="Example: cai run examples/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for part in (constitutions, prompts, redteam, grades, fit_rubric, fit_preference, runs, file_commands, exports, serve):
    app.add_typer(part.app)
app.add_typer(logs.log)
INTERRUPTED = "interrupted; nothing finished is lost: run the same command to go on"
WrongUsage: type[Exception] = typer.BadParameter.__mro__[2]
"""click's ClickException, or that of the copy of click inside newer versions of typer."""


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the `cai` command."""
    told: list[int] = []
    try:
        with _terminable(told):
            code = app(arguments, standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except CaiError as error:
        _end(str(error), 2 if isinstance(error, UsageError) else 1)
    except WrongUsage as error:
        _end(error.format_message(), 2)  # type: ignore[attr-defined]
    if code == 130:
        _end(INTERRUPTED, 128 + (told or [signal.SIGINT])[0])
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _terminable(told: list[int]) -> Iterator[None]:
    """SIGTERM, which schedulers send before they kill, ends a command as Ctrl-C does; `told` gets its number."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        told.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        print(f"cai: {line}", file=sys.stderr)
    sys.exit(code)
