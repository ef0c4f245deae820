"""`cai chat`: talk to several models in the terminal, and see the rubric's grade of each reply."""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cai.cli.endpoint_options import EndpointOptions
from cai.cli.runs import SpendingLimits
from cai.cli.silence import quiet
from cai.errors import BackendError, JobError, UsageError
from cai.terminal_text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from cai.cli.chat_turns import Conversation, Subject
    from cai.lm.http import HttpConfig
    from cai.rubric import CompiledRubric

app = typer.Typer()


@app.command(epilog="Example: cai chat runs/quickstart, or echo hello | cai chat --model smollm2")
def chat(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="A run's folder or YAML: its base, SFT and policy."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Without a run: a model's spec; repeatable.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Of a run: only base, sft or policy; repeatable.")
    ] = None,
    constitution: Annotated[
        str | None, typer.Option(help="With --model: the constitution whose rubric grades.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.7,
    seed: Annotated[int, typer.Option(help="Of the replies.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY.PATH=VALUE",
            help="A setting of `http`, or any one of a run's YAML; repeatable.",
        ),
    ] = None,
) -> None:
    """Send each line to all models, and show their replies with the rubric's grade. /help lists
    the commands.
    """
    from cai.cli.chat_turns import ChatSettings, Conversation

    if (run is None) == (not model):
        raise UsageError("chat: give a run, or one or more --model")
    quiet()
    if run is not None:
        if constitution is not None:
            raise UsageError("chat: a run has a constitution of its own: leave --constitution out")
        specs, http, constitution = _run_models(run, only or [], settings or [])
    else:
        if only:
            raise UsageError("chat: --only chooses among a run's models: give a run")
        specs = {spec: spec for spec in model or []}
        options = EndpointOptions("chat", None, settings, SpendingLimits())
        http, _ = options.parse_settings()
    rubric = _rubric(constitution)
    subjects = list(_open(specs, http))
    _talk(Conversation(subjects, rubric, ChatSettings(max_tokens, temperature, seed)))


def _run_models(
    run: Path, only: list[str], settings: list[str]
) -> tuple[dict[str, str], HttpConfig, str]:
    """(subject -> spec, the run's settings of endpoints, its constitution)."""
    from cai.artifacts import SUBJECTS
    from cai.pipeline.config import load_run

    resolved = load_run(run, settings)
    folders = {
        name: resolved.folder / folder if folder else None for name, folder in SUBJECTS.items()
    }
    specs = {
        name: f"local:{folder}" if folder else resolved.run.model
        for name, folder in folders.items()
        if folder is None or folder.exists()
    }
    for name in only:
        if name not in specs:
            raise UsageError(f"--only {name}: the run has {', '.join(specs)}")
    chosen = {name: spec for name, spec in specs.items() if not only or name in only}
    return chosen, resolved.run.http, str(resolved.constitution)


def _rubric(constitution: str | None) -> CompiledRubric | None:
    """The rubric that grades; None, with a line on standard error, where only a model could."""
    if constitution is None:
        return None
    from cai.constitution import load_constitution
    from cai.rubric import compile_rubric

    rubric = load_constitution(constitution).rubric
    if rubric is None:
        print(f"{constitution}: no rubric: replies are not graded", file=sys.stderr)
        return None
    compiled = compile_rubric(rubric)
    if compiled.model_questions:
        names = ", ".join(compiled.model_questions)
        print(
            f"{constitution}: only a model can decide {names}: replies are not graded",
            file=sys.stderr,
        )
        return None
    return compiled


def _open(specs: dict[str, str], http: HttpConfig) -> Iterator[Subject]:
    from cai.cli.chat_turns import Subject
    from cai.lm import open_lm
    from cai.lm.credentials import refuse_user_info

    for name, spec in specs.items():
        refuse_user_info(spec)  # before it is printed
        print(f"opening {name if name == spec else f'{name}: {spec}'}", file=sys.stderr)
        yield Subject(name, open_lm(spec, http))


# ---- the loop ----


class _Stopped(KeyboardInterrupt):
    """Ctrl-C, as against SIGTERM: it ends a reply, not the command."""


def _talk(conversation: Conversation) -> None:
    """Read lines until the end of the input or /quit.

    Raises:
        JobError: the input is no terminal, and some replies failed.
    """
    from rich.console import Console

    interactive = sys.stdin.isatty()
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    failures = 0
    if interactive:
        print("Ctrl-D ends, Ctrl-C stops a reply, /help lists the commands", file=sys.stderr)
    with _stoppable(), asyncio.Runner() as runner:
        # the answer to a question that was stopped is no news
        runner.get_loop().set_exception_handler(lambda loop, context: None)
        for line in _lines(interactive):
            if line == "/quit":
                break
            if line.startswith("/"):
                print(conversation.command(line))
                continue
            try:
                failures += runner.run(_turn(conversation, line, console))
            except _Stopped:
                if not interactive:
                    raise
                runner.run(_cancel_others())
                print("\nstopped", file=sys.stderr)
        runner.run(_close(conversation))
    if failures and not interactive:
        raise JobError(f"chat: {failures} replies failed")


def _lines(interactive: bool) -> Iterator[str]:
    """Lines with something in them, until the end of the input or Ctrl-C at the prompt."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # lines can be edited, and called back
    with contextlib.suppress(EOFError, _Stopped):
        while True:
            line = input("> " if interactive else "").strip()
            if line:
                yield line
    if interactive:
        print()


async def _turn(conversation: Conversation, text: str, console: Console) -> int:
    """Show each subject's reply as it comes; return how many failed."""
    from rich.text import Text

    failures = 0
    conversation.turn += 1
    for subject in conversation.subjects:
        console.print(Text(printable(subject.name), style="bold cyan"))
        try:
            sample = await conversation.reply(subject, text)
        except BackendError as error:
            failures += 1
            print(f"cai: {printable(subject.name)}: {printable(str(error))}", file=sys.stderr)
            continue
        console.print(Text(printable(sample.text)))
        notes = [] if sample.finished else [f"cut at {conversation.settings.max_tokens} tokens"]
        if graded := conversation.grade_text(text, sample):
            notes.insert(0, graded)
        if notes:
            console.print(Text(" · ".join(notes), style="dim"))
        console.print()
    return failures


async def _cancel_others() -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)


async def _close(conversation: Conversation) -> None:
    for subject in conversation.subjects:
        await subject.lm.aclose()


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let Ctrl-C raise `_Stopped` at once, also inside a model, where asyncio would wait."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> NoReturn:
        raise _Stopped

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
