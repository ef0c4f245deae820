"""What judgements say, by hand: agreement, ratings, wins, and what is left out."""

from __future__ import annotations

from typing import Any

import pytest
from report_toys import reply

from cai.constitution import load_constitution
from cai.records import HumanJudgement, Vote, chat_of
from cai.review.items import Item, reply_items, subject_pairs
from cai.review.questions import Judged, judged_items, pair_questions, reply_questions
from cai.review.report import (
    confidence,
    question_scores,
    rating_counts,
    rating_scores,
    same_choice,
    shown_first_chosen,
    win_rates,
)
from cai.rubric import compile_rubric


def judgement(item: Item, verdict: str, reviewer: str = "ann", **fields: Any) -> HumanJudgement:
    return HumanJudgement.model_validate(
        {
            "reviewer": reviewer,
            "item": item.id,
            "task": item.task,
            "verdict": verdict,
            "seconds": 1,
            "time": "2026-01-01T00:00:00.000+00:00",
            **fields,
        }
    )


def pair(number: int, p_first: float | None = None, **votes: float) -> Item:
    return Item(
        task="pair",
        chat=chat_of(("user", f"{number}?")),
        replies=("one", "two"),
        p_first=p_first,
        votes=tuple(
            Vote(principle=name, logprobs=None, logprobs_swapped=None, p_first=p)
            for name, p in votes.items()
        ),
    )


def judged(*rows: tuple[Item, dict[str, str]]) -> list[Judged]:
    """Items with each person's verdict."""
    return [
        Judged(item, {name: judgement(item, verdict, name) for name, verdict in people.items()})
        for item, people in rows
    ]


def means(question: Any, rows: list[Judged], **options: Any) -> dict[tuple[str, str], Any]:
    scores = question_scores(question, rows, **options)
    return {
        (s.metric, s.subject): (None if s.mean is None else round(s.mean, 6), s.n) for s in scores
    }


def test_people_and_machine() -> None:
    """Four pairs. Ann: first, first, second, second; Bob: first, second, second, second.

    Ann and Bob: p_o = 3/4, p_e = 1/2 * 1/4 + 1/2 * 3/4 = 1/2, kappa 1/2. The machine says what Ann
    says: kappa 1. People and machine: 7/8 and 3/8 * 1/2 + 5/8 * 1/2 = 1/2, kappa 3/4. Alpha of
    people: of 8 values 3 are first, 5 second; D_o = 2/8, D_e = 2 * 15 / 56: 1 - 1/4 * 56/30 = 8/15.
    """
    rows = judged(
        (pair(1, 0.9, p=0.9), {"ann": "first", "bob": "first"}),
        (pair(2, 0.8, p=0.2), {"ann": "first", "bob": "second"}),
        (pair(3, 0.1), {"ann": "second", "bob": "second"}),
        (pair(4, 0.4), {"ann": "second", "bob": "second"}),
    )
    overall, by_principle = pair_questions(rows)
    assert means(overall, rows) == {
        ("alpha better reply", "people"): (round(8 / 15, 6), 4),
        ("kappa better reply", "people / machine"): (0.75, 4),
        ("kappa better reply", "ann / bob"): (0.5, 4),
        ("kappa better reply", "ann / machine"): (1.0, 4),
        ("kappa better reply", "bob / machine"): (0.5, 4),
    }
    assert [n for _, n in means(by_principle, rows, pairwise=False).values()] == [2, 2]
    same = same_choice(rows)
    assert (same.mean, same.n) == (7 / 8, 8)


def test_the_last_judgement_counts_and_foreign_items_are_counted() -> None:
    one, two = pair(1, 0.9), pair(2, 0.9)
    rows = [
        judgement(one, "first"),
        judgement(one, "second"),
        judgement(two, "skip"),
        judgement(pair(3), "tie"),
        judgement(pair(4), "tie"),
        judgement(pair(4), "undone"),
    ]
    known, unknown = judged_items(rows, [one, two])
    assert [(item.item.id, list(item.by_person)) for item in known] == [(one.id, ["ann"])]
    assert known[0].by_person["ann"].verdict == "second"
    assert unknown == 1


def test_ties_and_unknown_labels_are_no_choice() -> None:
    rows = judged((pair(1, 0.5), {"ann": "first"}), (pair(2, 0.9), {"ann": "tie"}))
    assert same_choice(rows).n == 0
    assert same_choice(judged((pair(1), {"ann": "first"}))).n == 0


def test_a_bias_to_what_is_shown_first() -> None:
    """Second shown as A and chosen; first shown as A and not chosen."""
    one, two = pair(1), pair(2)
    rows = [
        Judged(one, {"ann": judgement(one, "second", order=(1, 0))}),
        Judged(two, {"ann": judgement(two, "second", order=(0, 1))}),
    ]
    assert shown_first_chosen(rows).mean == 0.5


def test_wins_and_confidence() -> None:
    """A win, a tie and a loss of the policy, one of them shown as sft against policy."""
    rows = [
        reply(prompt, subject, response=f"{subject} {prompt}")
        for prompt in "abc"
        for subject in ("sft", "policy")
    ]
    items = subject_pairs(rows, "policy", "sft")[:2] + subject_pairs(rows, "sft", "policy")[2:]
    verdicts = ("first", "tie", "first")
    [score] = win_rates(judged(*((i, {"ann": v}) for i, v in zip(items, verdicts, strict=True))))
    assert (score.metric, score.subject, score.mean) == ("win rate over sft", "policy", 0.5)
    of_judged, of_all = confidence(
        judged((pair(1, 0.4), {"ann": "tie"})), [pair(1, 0.4), pair(2, 1)]
    )
    assert (of_judged.mean, of_all.mean) == (0.6, 0.8)


def test_ratings() -> None:
    """People's two ratings of each of two replies of one subject: the same ones, so alpha is 1."""
    rows = []
    for text, rating in (("x", 2), ("y", 6)):
        [item] = reply_items([reply(text, "sft", response=text)])
        people = {
            name: judgement(item, "answered", name, ratings=(rating,)) for name in ("ann", "bob")
        }
        rows.append(Judged(item, people | {"eve": judgement(item, "answered", "eve")}))
    assert rating_counts(rows) == {"sft": {2: 2, 6: 2}}
    mean, alpha = rating_scores(rows)
    assert (mean.subject, mean.mean, mean.n) == ("sft", 4.0, 4)
    assert (alpha.metric, alpha.mean, alpha.n) == ("alpha rating", 1.0, 2)


def test_replies_by_propositions() -> None:
    """A person's yes and no give a class and a verdict by the rubric, as a machine's do. What was
    answered of another rubric is left out."""
    loaded = load_constitution("harmless").rubric
    assert loaded is not None
    rubric = compile_rubric(loaded)
    refusal = dict.fromkeys(rubric.questions, False) | {"declines": True}
    [item] = reply_items(
        [reply("a", response="No.", kind="benign", propositions={"declines": 1.0})]
    )
    rows = [
        Judged(
            item,
            {
                "ann": judgement(item, "propositions", propositions=refusal),
                "bob": judgement(item, "refused", "bob"),
                "eve": judgement(item, "propositions", "eve", propositions={"declines": False}),
            },
        )
    ]
    questions = {question.name: question for question in reply_questions(rows, rubric)}
    people = rows[0].by_person
    assert questions["class"].person(item, people["ann"]) == "refused"
    assert questions["reply"].person(item, people["ann"]) == "incorrect"
    assert questions["reply"].person(item, people["bob"]) == "refused"
    assert questions["class"].person(item, people["eve"]) is None
    assert questions["class refused"].person(item, people["ann"]) is True
    declines = questions["proposition declines"]
    assert (declines.person(item, people["ann"]), declines.machine(item)) == (True, True)
    assert {"class", "reply", "class refused"} <= questions.keys()


@pytest.mark.parametrize("rows", [[], judged((pair(1), {"ann": "tie"}))])
def test_nothing_to_compare(rows: list[Judged]) -> None:
    assert question_scores(pair_questions(rows)[0], rows) == []
    assert win_rates(rows) == []
    assert rating_scores(rows) == []
