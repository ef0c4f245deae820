"""`cai review --report`: what people's judgements say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cai.cli.output import print_table
from cai.cli.review_files import Sources
from cai.errors import StoreError
from cai.terminal_text import printable

if TYPE_CHECKING:
    from rich.table import Table

    from cai.records import Score
    from cai.review.questions import Judged, Question


def print_report(sources: Sources) -> None:
    """Print the agreement, the ratings and the wins of a file of judgements.

    Raises:
        StoreError: there is none yet, or a file cannot be read.
    """
    from cai.review.items import all_subject_pairs, reply_items
    from cai.review.questions import judged_items, reply_questions
    from cai.review.report import confidence, win_rates
    from cai.review.session import read_judgements
    from cai.rubric import compile_rubric

    rows = read_judgements(sources.output)
    if not rows:
        raise StoreError(f"{sources.output}: no judgement in it yet: run cai review first")
    replies, pairs = sources.reply_rows(), sources.pair_items()
    items = [*pairs, *reply_items(replies), *all_subject_pairs(replies)]
    judged, unknown = judged_items(rows, items)
    rubric = sources.rubric()
    of_pairs = [one for one in judged if one.item.task == "pair" and not one.item.subjects]
    of_models = [one for one in judged if one.item.task == "pair" and one.item.subjects]
    of_replies = [one for one in judged if one.item.task == "reply"]
    people = Counter(name for one in judged for name in one.by_person)
    print("judged: " + (", ".join(f"{name} {n}" for name, n in people.items()) or "nothing"))
    if unknown:
        print(f"left out: {unknown} judged items whose texts are in none of the files now")
    if of_pairs:
        _print_pairs(of_pairs, "pairs and the judge", confidence(of_pairs, pairs))
    if of_models:
        _print_pairs(of_models, "pairs of models and the rubric", win_rates(of_models))
    if of_replies:
        questions = reply_questions(of_replies, compile_rubric(rubric) if rubric else None)
        print_table(_agreement_table(of_replies, questions, "replies: agreement"))
    _print_ratings(judged)


def _print_pairs(judged: list[Judged], title: str, more: Sequence[Score]) -> None:
    from cai.review.questions import pair_questions
    from cai.review.report import same_choice, shown_first_chosen

    print_table(_agreement_table(judged, pair_questions(judged), f"{title}: agreement"))
    rows = [same_choice(judged), shown_first_chosen(judged), *more]
    print_table(_score_table([row for row in rows if row.n], f"{title}: shares and means"))


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

    table = Table("of", "who", "value, 95 % interval, n", title=title)
    for row in rows:
        table.add_row(printable(row.metric), printable(row.subject), estimate_text(row, ".2f"))
    return table


def _print_ratings(judged: list[Judged]) -> None:
    from rich.table import Table

    from cai.review.report import RATINGS, rating_counts, rating_scores

    counts = rating_counts(judged)
    if not counts:
        return
    table = Table("replies of", *map(str, RATINGS), title="ratings")
    for subject, ratings in counts.items():
        table.add_row(printable(subject), *(str(ratings[rating]) for rating in RATINGS))
    print_table(table)
    print_table(_score_table(rating_scores(judged), "ratings: mean and agreement"))
