"""`cai review`: people judge pairs and replies on a local page; and what their judgements say."""

from __future__ import annotations

import re
import secrets
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cai.cli.output import print_table
from cai.errors import StoreError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from cai.constitution.schema import Rubric
    from cai.records import EvalReply, Score
    from cai.review.items import Item
    from cai.review.questions import Judged, Question

app = typer.Typer()
REVIEWER = re.compile(r"\w[\w.-]{0,39}")


@dataclass(frozen=True)
class Sources:
    """Where the items of a review are, and where its judgements go."""

    pairs: Path | None
    preferences: Path | None
    replies: Path | None
    constitution: str | None
    """Its rubric has the propositions."""
    output: Path

    def pair_items(self) -> list[Item]:
        from cai.review.items import read_pairs

        return [] if self.pairs is None else read_pairs(self.pairs, self.preferences)

    def reply_rows(self) -> list[EvalReply]:
        from cai.records import EvalReply
        from cai.store import read_rows

        return [] if self.replies is None else list(read_rows(self.replies, EvalReply))

    def rubric(self) -> Rubric | None:
        from cai.constitution import load_constitution

        return None if self.constitution is None else load_constitution(self.constitution).rubric


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
    sources = _sources(run, pairs, preferences, replies, (output, constitution))
    if report:
        _print_report(sources)
        return
    if not REVIEWER.fullmatch(reviewer):
        raise UsageError(
            f"--reviewer {reviewer!r}: at most 40 letters, digits, dots, hyphens and underscores"
        )
    queue = _queue(sources, only, compare, order)[:items]
    _serve(sources, queue, (reviewer, likert, propositions), port)


def _sources(
    run: Path | None,
    pairs: Path | None,
    preferences: Path | None,
    replies: Path | None,
    output_and_constitution: tuple[Path | None, str | None],
) -> Sources:
    from cai.artifacts import PAIRS, PREFERENCES, REPLIES, REVIEW

    output, constitution = output_and_constitution
    files = [file for file in (pairs, preferences, replies) if file is not None]
    if (run is None) == (not files):
        raise UsageError("review: give a run, or --pairs or --replies")
    if preferences is not None and pairs is None:
        raise UsageError("review: --preferences are labels of --pairs: give both")
    if run is None:
        if output is None:
            raise UsageError("review: without a run, name the file of judgements (--output)")
        return Sources(pairs, preferences, replies, constitution, output)
    if constitution is not None:
        raise UsageError("review: a run has a constitution of its own: leave --constitution out")
    from cai.pipeline.config import load_run

    resolved = load_run(run)

    def existing(name: str) -> Path | None:
        path = resolved.folder / name
        return path if path.exists() else None

    return Sources(
        existing(PAIRS),
        existing(PREFERENCES) if existing(PAIRS) else None,
        existing(REPLIES),
        str(resolved.constitution),
        output or resolved.folder / REVIEW,
    )


def _queue(
    sources: Sources,
    only: Literal["pairs", "replies"] | None,
    compare: tuple[str, str] | None,
    order: Literal["doubt", "random"],
) -> list[Item]:
    from cai.review.items import at_random, doubtful_first, reply_items, subject_pairs

    if compare is not None:
        rows = sources.reply_rows()
        subjects = list(dict.fromkeys(row.subject for row in rows))
        for subject in compare:
            if subject not in subjects:
                known = ", ".join(subjects) or "there are no replies"
                raise UsageError(f"--compare {subject}: no such subject in the replies ({known})")
        items = subject_pairs(rows, *compare)
    else:
        items = [] if only == "replies" else sources.pair_items()
        items += [] if only == "pairs" else reply_items(sources.reply_rows())
    if not items:
        raise StoreError(
            f"{sources.output.parent}: nothing to judge: no pair of different replies, no reply"
        )
    return (doubtful_first if order == "doubt" else at_random)(items)


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


# ---- the report ----


def _print_report(sources: Sources) -> None:
    from cai.review.items import all_subject_pairs, reply_items
    from cai.review.questions import judged_items, reply_questions
    from cai.review.session import read_judgements
    from cai.rubric import compile_rubric

    rows = read_judgements(sources.output)
    if not rows:
        raise StoreError(f"{sources.output}: no judgement in it yet: run cai review first")
    replies, pairs = sources.reply_rows(), sources.pair_items()
    items = [*pairs, *reply_items(replies), *all_subject_pairs(replies)]
    judged, unknown = judged_items(rows, items)
    rubric = sources.rubric()
    of_pairs = [one for one in judged if one.item.task == "pair"]
    of_replies = [one for one in judged if one.item.task == "reply"]
    people = Counter(name for one in judged for name in one.by_person)
    print("judged: " + (", ".join(f"{name} {n}" for name, n in people.items()) or "nothing"))
    if unknown:
        print(f"left out: {unknown} judged items whose texts are in none of the files now")
    if of_pairs:
        _print_pairs(of_pairs, pairs)
    if of_replies:
        questions = reply_questions(of_replies, compile_rubric(rubric) if rubric else None)
        print_table(_agreement_table(of_replies, questions, "replies: agreement"))
    _print_ratings(judged)


def _print_pairs(judged: list[Judged], pairs: list[Item]) -> None:
    from cai.review import report
    from cai.review.questions import pair_questions

    print_table(_agreement_table(judged, pair_questions(judged), "pairs: agreement"))
    shares = [report.same_choice(judged), report.shown_first_chosen(judged)]
    shares += [*report.win_rates(judged), *report.confidence(judged, pairs)]
    print_table(_score_table([row for row in shares if row.n], "pairs: shares and means"))


def _agreement_table(judged: list[Judged], questions: list[Question], title: str) -> Table:
    from cai.review.report import question_scores

    rows = [
        row
        for number, question in enumerate(questions)
        for row in question_scores(question, judged, pairwise=number == 0)
    ]
    return _score_table(rows, title)


def _score_table(rows: list[Score], title: str) -> Table:
    from rich.table import Table

    from cai.report.formats import estimate_text

    table = Table("of", "who", "value, 95 % interval, items", title=title)
    for row in rows:
        table.add_row(row.metric, row.subject, estimate_text(row, ".2f"))
    return table


def _print_ratings(judged: list[Judged]) -> None:
    from rich.table import Table

    from cai.review.report import RATINGS, rating_counts, rating_scores

    counts = rating_counts(judged)
    if not counts:
        return
    table = Table("replies of", *map(str, RATINGS), title="ratings")
    for subject, ratings in counts.items():
        table.add_row(subject, *(str(ratings[rating]) for rating in RATINGS))
    print_table(table)
    print_table(_score_table(rating_scores(judged), "ratings: mean and agreement"))
