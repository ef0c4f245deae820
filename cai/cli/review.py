"""`cai review`: people judge pairs and replies on a local page; and what their judgements say."""

from __future__ import annotations

import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cai.cli.review_files import Sources, review_queue, review_sources
from cai.cli.review_report import print_report
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.review.items import Item

app = typer.Typer()
REVIEWER = re.compile(r"\w[\w.-]{0,39}")


@app.command(
    epilog="Example: cai review runs/quickstart --reviewer ann, "
    "then cai review --report runs/quickstart"
)
def review(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="A run's folder or YAML: its pairs and replies."),
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Without a run: pairs, as `cai label` reads or writes them.")
    ] = None,
    preferences: Annotated[
        Path | None, typer.Option(help="With --pairs: the labels, if they are in another file.")
    ] = None,
    replies: Annotated[
        Path | None, typer.Option(help="Without a run: graded replies, such as 70-replies.jsonl.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The judgements; in a run, 80-review.jsonl in its folder.")
    ] = None,
    reviewer: Annotated[
        str, typer.Option(help="Who judges; each reviewer judges all items.")
    ] = "reviewer",
    only: Annotated[
        Literal["pairs", "replies"] | None, typer.Option(help="Only the pairs, or the replies.")
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="SUBJECT SUBJECT",
            help="Pairs of two models' replies to the same prompt, such as sft policy.",
        ),
    ] = None,
    order: Annotated[
        Literal["doubt", "random"],
        typer.Option(help="doubt: first where the machine is least sure."),
    ] = "doubt",
    items: Annotated[int | None, typer.Option(min=1, help="Judge the first N only.")] = None,
    likert: Annotated[
        bool, typer.Option("--likert", help="Rate each reply from 1 to 7 as well.")
    ] = False,
    propositions: Annotated[
        bool,
        typer.Option("--propositions", help="Answer the rubric's propositions of each reply."),
    ] = False,
    constitution: Annotated[
        str | None, typer.Option(help="With --replies: the constitution with the rubric.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 0,
    report: Annotated[
        bool, typer.Option("--report", help="Print what the judgements say, and end.")
    ] = False,
) -> None:
    """Judge pairs and replies on a local page, without seeing where they come from.

    Each answer is saved before the next item is shown; the same command goes on where it was left.
    """
    sources = review_sources(run, pairs, preferences, replies, (output, constitution))
    if report:
        print_report(sources)
        return
    if not REVIEWER.fullmatch(reviewer):
        raise UsageError(
            f"--reviewer {reviewer!r}: at most 40 letters, digits, dots, hyphens and underscores"
        )
    queue = review_queue(sources, only, compare, order)[:items]
    _serve(sources, queue, (reviewer, likert, propositions), port)


def _serve(
    sources: Sources,
    queue: list[Item],
    who_and_what: tuple[str, bool, bool],
    port: int,
) -> None:
    from cai.review.server import HOST, ReviewServer
    from cai.review.session import Questions, Session
    from cai.rubric import compile_rubric
    from cai.store import locked_name

    reviewer, likert, propositions = who_and_what
    questions: dict[str, str] = {}
    if propositions:
        rubric = sources.rubric()
        if rubric is None:
            raise UsageError("--propositions: no rubric: name a constitution with one")
        questions = dict(compile_rubric(rubric).questions)
    output = sources.output
    with locked_name(output.with_name(f"{output.name}.{reviewer}")):  # one page a reviewer
        session = Session(queue, output, reviewer, Questions(questions, likert))
        try:
            server = ReviewServer(session, secrets.token_urlsafe(24), port)
        except OSError as error:
            raise UsageError(f"review: {HOST}:{port}: {error.strerror or error}") from None
        print(server.url, flush=True)
        print(
            f"{len(queue)} items, {session.progress()['done']} judged by {reviewer};"
            f" judgements go to {output}; Ctrl-C ends",
            file=sys.stderr,
        )
        try:
            server.serve_forever()
        finally:
            server.server_close()
            progress = session.progress()
            print(f"{progress['done']} of {progress['total']} judged", file=sys.stderr)
