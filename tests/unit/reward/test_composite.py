"""The composite reward: its parts by name, weighted."""

from __future__ import annotations

from pathlib import Path

import pytest
from preference_toys import HELLO, untrained_model

from cai.constitution import ClassRule, Proposition, Rubric
from cai.records import Kind, Prompt, chat_of
from cai.reward.composite import RewardWeights, Scorers, reward_parts
from cai.rubric import compile_rubric


def rubric() -> Rubric:
    """Saying no is right for disallowed prompts (3); sensitive prompts have no class."""
    return Rubric(
        behaviours={"disallowed": "refuse"},
        propositions={"declines": Proposition(question="Does it decline?", patterns=(r"\bno\b",))},
        classes={
            "refuse": (
                ClassRule(name="ideal", when="declines", style="desired_refusal", correct=True),
                ClassRule(
                    name="helps", when="not declines", style="disallowed_content", correct=False
                ),
            )
        },
        degrees={"full_refusal": "declines", "full_compliance": "not declines"},
        weights={"refuse": {"ideal": 3.0, "helps": -1.0}},
    )


def hello(kind: Kind | None) -> Prompt:
    return Prompt(chat=HELLO, kind=kind)


def test_parts_by_name(tiny_model: Path) -> None:
    """Weights multiply. Rubric: 0 without a kind, None for a kind without a class."""
    model, compiled = untrained_model(tiny_model), compile_rubric(rubric())
    prompts = [hello("disallowed"), hello("disallowed"), hello(None), hello("sensitive")]
    replies = ["no", "sure", "no", "no"]
    scorers, weights = Scorers(model, compiled), RewardWeights(pm=0.5, rubric=2.0)
    table = reward_parts(prompts, replies, scorers, weights)
    assert table["rubric"] == [6.0, -2.0, 0.0, None]
    assert table["pm"] == pytest.approx(
        [0.5 * s for s in model.score([model.rows(HELLO, r) for r in replies])]
    )
    assert list(table) == ["pm", "rubric"]


def test_parts_of_no_weight_are_not_computed(tiny_model: Path) -> None:
    prompts, compiled = [hello("disallowed")], compile_rubric(rubric())
    graded = reward_parts(prompts, ["no"], Scorers(rubric=compiled), RewardWeights())
    assert graded == {"rubric": [3.0]}
    assert reward_parts(prompts, ["no"], Scorers(), RewardWeights()) == {}
    assert list(
        reward_parts(
            prompts, ["no"], Scorers(untrained_model(tiny_model), compiled), RewardWeights(rubric=0)
        )
    ) == ["pm"]


def test_length_and_form_as_parts() -> None:
    """350 words with 150 free: 200 too many. An unclosed fence and another turn: two faults."""
    prompt = Prompt(chat=chat_of(("user", "Hi")), kind=None)
    replies = ["word " * 350, "```\ncode\nUser: and now?", "fine"]
    table = reward_parts(
        [prompt] * 3, replies, Scorers(), RewardWeights(pm=0, rubric=0, length=0.5, format=0.25)
    )
    assert table == {"length": [-1.0, 0.0, 0.0], "format": [0.0, -0.5, 0.0]}


def test_what_does_not_fit_the_model_has_no_score(tiny_model: Path) -> None:
    """A prompt or a reply beyond the window: unknown; the other rows have their usual score."""
    model = untrained_model(tiny_model)
    long_prompt = Prompt(chat=chat_of(("user", "x" * model.window)))
    prompts = [hello(None), long_prompt, hello(None), hello(None)]
    replies = ["no", "no", "x" * model.window, "yes"]
    weights = RewardWeights(rubric=0)
    parts = reward_parts(prompts, replies, Scorers(model), weights)["pm"]
    short = reward_parts([hello(None)] * 2, ["no", "yes"], Scorers(model), weights)["pm"]
    assert parts == [short[0], None, None, short[1]]
    fits = model.window - len(model.rows(HELLO, ""))
    edge = reward_parts([hello(None)] * 2, ["x" * fits, "x" * (fits + 1)], Scorers(model), weights)
    assert [value is None for value in edge["pm"]] == [False, True]
