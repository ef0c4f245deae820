"""The `cai` command: its subcommands, its exit codes and its one-line errors.

Exit codes: 0 done; 1 findings, or a job that failed; 2 wrong usage or unreadable input;
130 interrupted; 143 terminated.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.main import get_command

from cai.cli import (
    attacks,
    audit_judge,
    audit_rubric,
    batches,
    calibrate,
    capability,
    chat,
    compare_constitutions,
    constitutions,
    eval_command,
    exports,
    file_commands,
    fit_grader,
    fit_preference,
    fit_rubric,
    grades,
    logs,
    plan,
    projects,
    prompts,
    propose_rubric,
    ray_waves,
    redteam,
    review,
    runs,
    scaling,
    serve,
    sweep,
    synthesize,
)
from cai.errors import CaiError, UsageError
from cai.terminal_text import printable

__all__ = ["app", "main"]

app = typer.Typer(
    name="cai",
    help="Constitutional AI end to end: from a constitution in YAML to a measurably safer model.",
    epilog="Example: cai run examples/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (
    projects,
    constitutions,
    prompts,
    redteam,
    attacks,
    grades,
    calibrate,
    fit_rubric,
    fit_grader,
    propose_rubric,
    fit_preference,
    runs,
    plan,
    sweep,
    synthesize,
    file_commands,
    audit_judge,
    audit_rubric,
    eval_command,
    exports,
    capability,
    scaling,
    compare_constitutions,
    serve,
    review,
    chat,
):
    app.add_typer(module.app)
app.add_typer(logs.log)
app.add_typer(batches.batch)
app.add_typer(ray_waves.ray)
INTERRUPTED = "interrupted; finished work is saved: run the same command to resume"
EXIT_INTERRUPTED = 128 + signal.SIGINT
ClickException: type[Exception] = typer.BadParameter.__mro__[2]
"""click's ClickException, or that of the copy of click inside newer versions of typer."""


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the `cai` command."""
    received: list[int] = []
    _replace_unprintable()
    try:
        with _sigterm_interrupts(received):
            code = _command()(arguments, standalone_mode=False)
            sys.stdout.flush()
    except (typer.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except CaiError as error:
        _exit_with_error(str(error), 2 if isinstance(error, UsageError) else 1)
    except ClickException as error:
        _exit_with_error(error.format_message(), 2)  # type: ignore[attr-defined]
    except OSError as error:
        _exit_without_stdout(error)
    if code == EXIT_INTERRUPTED:
        signal_number = received[0] if received else signal.SIGINT
        _exit_with_error(INTERRUPTED, 128 + signal_number)
    exit_code = code if isinstance(code, int) else 0
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from cai.train.distributed import exit_process

        exit_process(exit_code)
    sys.exit(exit_code)


@cache
def _command() -> Any:
    """`app` with the options of all its commands, which take a while to put together."""
    return get_command(app)


def _replace_unprintable() -> None:
    """Print `?` for a character that the terminal's encoding lacks, rather than fail there."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def _sigterm_interrupts(received: list[int]) -> Iterator[None]:
    """Let SIGTERM, which schedulers send before they kill, end a command as Ctrl-C does.

    Args:
        received: gets the signal's number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        runner = getattr(getattr(on_ctrl_c, "func", None), "__self__", None)
        if callable(on_ctrl_c) and isinstance(runner, asyncio.Runner):
            on_ctrl_c(signal.SIGINT, frame)  # it cancels its tasks, and raises after them
        else:
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _exit_without_stdout(error: OSError) -> NoReturn:
    """End after an error of the system: most often, standard output takes nothing any more.

    A reader that has seen enough (`| head`) is no error.
    """
    silent = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):  # what is left in the buffer must not be written at exit
        os.dup2(silent, sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        sys.exit(1)  # as click does in the midst of a command
    where = error.filename or "standard output, or a temporary file"
    message = " ".join(str(error.strerror or error).split())
    _exit_with_error(f"{where}: {message}: make room, or give another place", 1)


def _exit_with_error(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        print(f"cai: {printable(line)}", file=sys.stderr)
    sys.exit(code)
