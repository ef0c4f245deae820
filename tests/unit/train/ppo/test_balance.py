"""The balance between groups of prompts: weights and failure rates, by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import TrainError
from cai.records import Prompt, chat_of
from cai.train.ppo.balance import Balance, failure_rates, remaining_way
from cai.train.ppo.config import BalanceConfig
from cai.train.ppo.reward_table import ScoredRollouts
from cai.train.ppo.rollout import Rollout

CONFIG = BalanceConfig(
    targets={"disallowed": 0.1, "benign": 0.1}, step=0.5, smoothing=0.5, max_weight=4.0
)


def prompt(kind: str, category: str | None = None) -> Prompt:
    return Prompt.model_validate(
        {"chat": chat_of(("user", "Hi")), "kind": kind, "category": category}
    )


def test_the_group_with_more_of_its_way_left_gains_weight() -> None:
    """After 0.5 and 0.3: running rates 0.4 and 0.3; 0.3 of 0.4 and 0.2 of 0.2 are left, 0.75 and 1,
    mean 0.875: 0.125 / 0.5 of a step of 0.5 down and up. The weights' mean is 1.
    """
    balance = Balance().updated({"disallowed": 0.5, "benign": 0.3}, CONFIG)
    assert balance.log_weights == pytest.approx({"disallowed": 0, "benign": 0})
    balance = balance.updated({"disallowed": 0.3, "benign": 0.3}, CONFIG)
    assert balance.log_weights == pytest.approx({"disallowed": -0.125, "benign": 0.125})
    high, low = math.exp(0.125), math.exp(-0.125)
    mean = (high + low) / 2
    expected = {"disallowed": low / mean, "benign": high / mean}
    assert balance.weights(CONFIG) == pytest.approx(expected)


def test_weights_go_up_to_their_bounds() -> None:
    """From 0.9 and 0.3, disallowed prompts stay where they are: a full step each way."""
    balance = Balance().updated({"disallowed": 0.9, "benign": 0.3}, CONFIG)
    for _ in range(9):
        balance = balance.updated({"disallowed": 0.9, "benign": 0.0}, CONFIG)
    limit = math.log(CONFIG.max_weight)
    assert balance.log_weights == pytest.approx({"disallowed": limit, "benign": -limit})


def test_a_group_that_begins_at_its_target_has_a_way_of_five_points() -> None:
    """0.1 above the target, of at least 0.05: 2."""
    left = remaining_way({"benign": 0.2}, {"benign": 0.1}, {"benign": 0.1})
    assert left == pytest.approx({"benign": 2.0})


def test_failures_are_smoothed() -> None:
    """Half of the past 0.3 and half of 0.1."""
    balance = Balance().updated({"benign": 0.3}, CONFIG).updated({"benign": 0.1}, CONFIG)
    assert balance.failures == pytest.approx({"benign": 0.2})


def test_a_group_without_graded_responses_keeps_its_weight() -> None:
    before = Balance().updated({"disallowed": 0.3, "benign": 0.3}, CONFIG)
    after = before.updated({"benign": 0.0}, CONFIG)
    assert after.log_weights["disallowed"] == before.log_weights["disallowed"]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=30))
def test_weights_are_bounded_and_have_mean_1(rates: list[tuple[float, float]]) -> None:
    balance = Balance()
    for disallowed, benign in rates:
        balance = balance.updated({"disallowed": disallowed, "benign": benign}, CONFIG)
    weights = list(balance.weights(CONFIG).values())
    assert sum(weights) == pytest.approx(2)
    assert max(weights) / min(weights) <= CONFIG.max_weight**2 * (1 + 1e-9)


def test_weights_of_prompts() -> None:
    """A category with a target of its own is no part of its kind; others weigh 1."""
    config = BalanceConfig(targets={"benign": 0.1, "benign/borderline": 0.1}, step=0.5)
    balance = Balance().updated({"benign": 0.0, "benign/borderline": 1.0}, config)
    weights = balance.weights(config)
    assert weights["benign/borderline"] > 1 > weights["benign"]
    prompts = [prompt("benign", "borderline"), prompt("benign", "coding"), prompt("disallowed")]
    assert balance.rollout_weights(prompts, config) == [
        weights["benign/borderline"],
        weights["benign"],
        1.0,
    ]


def test_failure_rates_count_negative_parts_of_known_rewards() -> None:
    """Of three responses to disallowed prompts one has an unknown reward, and one fails."""
    kinds = ["disallowed", "disallowed", "disallowed", "benign", "sensitive"]
    rollouts = [Rollout(prompt(kind), [1], [2], "x", True) for kind in kinds]
    table: dict[str, list[float | None]] = {
        "rubric": [-2.0, 2.0, None, 1.0, -1.0],
        "pm": [0.0] * 5,
    }
    scored = ScoredRollouts(rollouts, table, [0, 1, 3, 4], [-2.0, 2.0, 1.0, -1.0])
    assert failure_rates(scored, CONFIG) == {"disallowed": 0.5, "benign": 0.0}
    assert failure_rates(scored, BalanceConfig()) == {}
    with pytest.raises(TrainError, match=r"ppo\.balance\.part: other: .* only rubric, pm"):
        failure_rates(scored, BalanceConfig(targets=CONFIG.targets, part="other"))
