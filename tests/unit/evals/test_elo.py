"""Score rows of comparisons: ratings, win rates, categories, unscored ones."""

from __future__ import annotations

import asyncio
import random

import pytest

from cai.data.turns import with_turns
from cai.errors import UnansweredError
from cai.evals.elo import corrected_scores, elo_scores
from cai.evals.judged_pairs import JudgedPair, SubjectReply, comparison_items, comparison_step
from cai.evals.replies import prompt_draws
from cai.lm.fake import FakeLM, brief, polite
from cai.records import Chat, Prompt, Score, chat_of

Rows = dict[tuple[str, str], Score]


def verdict(number: int, p: float | None, category: str | None = None) -> JudgedPair:
    return JudgedPair(
        source=f"p{number}",
        category=category,
        subjects=("base", "policy"),
        words=(10, 10 + number % 3),
        p_first=p,
        unscored="no answer" if p is None else None,
    )


def by_name(scores: list[Score]) -> Rows:
    return {(score.metric, score.subject): score for score in scores}


def test_the_reference_is_zero_and_wins_are_counted() -> None:
    rows = [verdict(i, 0.0 if i % 4 else 1.0) for i in range(40)]
    rows += [verdict(40, None), verdict(41, None)]
    scores = by_name(elo_scores(rows, ["base", "policy"], seed=0))
    base, policy = scores["elo.rating", "base"], scores["elo.rating", "policy"]
    assert base.mean == 0
    assert policy.mean == pytest.approx(190.85, abs=0.01)  # 400·log10(30/10)
    assert (policy.n, policy.unscored) == (40, 2)
    assert policy.ci_low is not None
    assert policy.ci_high is not None
    assert policy.ci_low < 190 < policy.ci_high
    rate = scores["elo.win_rate", "policy"]
    assert (rate.mean, rate.n, rate.unscored) == (0.75, 40, 2)
    assert ("elo.win_rate", "base") not in scores
    assert scores["elo.length_controlled_win_rate", "policy"].n == 40


def test_the_order_of_the_subjects_in_a_row_does_not_matter() -> None:
    rows = [verdict(i, 0.2) for i in range(6)]
    turned = [r.model_copy(update={"subjects": r.subjects[::-1], "p_first": 0.8}) for r in rows]
    means = [
        [score.mean for score in elo_scores(some, ["base", "policy"], seed=0)]
        for some in (rows, turned)
    ]
    assert means[0][:2] == pytest.approx(means[1][:2])


def test_a_subject_that_always_wins_has_no_rating() -> None:
    scores = by_name(elo_scores([verdict(i, 0.0) for i in range(9)], ["base", "policy"], seed=0))
    assert scores["elo.rating", "policy"].mean is None
    assert scores["elo.win_rate", "policy"].mean == 1


def test_each_category_has_its_scores() -> None:
    rows = [verdict(i, float(i % 3 == 0), "a" if i < 12 else "b") for i in range(24)]
    metrics = {score.metric for score in elo_scores(rows, ["base", "policy"], seed=0)}
    assert {"elo.rating", "elo.rating.a", "elo.win_rate.b"} <= metrics


def test_people_correct_a_judge_that_is_always_too_kind() -> None:
    """The judge gives policy .25 where people give 0, and 1 where they give 1."""
    stream = random.Random(0)
    truth = [float(stream.random() < 0.5) for _ in range(200)]
    judged = [verdict(i, 0.75 * (1 - y)) for i, y in enumerate(truth)]
    people = [verdict(i, 1 - y) for i, y in enumerate(truth[:60])]
    scores = by_name(corrected_scores(judged, people, ["base", "policy"]))
    corrected = scores["elo.corrected_win_rate", "policy"]
    assert corrected.mean == pytest.approx(sum(truth) / 200, abs=0.02)
    assert scores["elo.judge_agreement", "policy"].n == 60


def test_a_judge_that_fails_a_third_of_the_time_leaves_unscored_counts() -> None:
    class Failing(FakeLM):
        async def choice_logprobs(
            self, chat: Chat, choices: object, *, prefill: str = ""
        ) -> list[float] | None:
            if "3" in chat[-1].content:
                raise UnansweredError("toy: down")
            return await super().choice_logprobs(chat, ("A", "B"), prefill=prefill)

    from cai.constitution import Constitution
    from cai.generate.label import labeller
    from cai.generate.label_config import LabelConfig

    prompts = [Prompt(chat=chat_of(("user", f"Say {'123'[i % 3]} {'x' * i}"))) for i in range(30)]
    draws = prompt_draws(prompts, 1)
    replies = {
        name: {
            item.id: SubjectReply(
                source=item.prompt.id, subject=name, draw=0, response=text * 2, finished=True
            )
            for item in draws
        }
        for name, text in (("base", "a "), ("policy", "longer "))
    }
    empty = Constitution(name="toy", version="1", principles=())
    config = LabelConfig.model_validate({"preset": "direct"})
    judge = Failing(polite, brief)
    step = comparison_step(labeller(empty, judge, config, 0, lambda pair: (None, None)))
    rows = [asyncio.run(step(item)) for item in comparison_items(draws, replies)]
    scores = by_name(elo_scores(rows, ["base", "policy"], seed=0))
    for metric in ("elo.rating", "elo.win_rate", "elo.length_controlled_win_rate"):
        assert (scores[metric, "policy"].n, scores[metric, "policy"].unscored) == (20, 10)
    assert scores["elo.rating", "policy"].mean == pytest.approx(-2 * 173.72, abs=0.1)


def test_two_system_turns_become_one() -> None:
    turns = chat_of(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"))
    chat = with_turns(turns, chat_of(("system", "Be brief."), ("user", "Bye")))
    assert [m.role for m in chat] == ["system", "user", "assistant", "user"]
    assert chat[0].content == "Be kind.\n\nBe brief."
