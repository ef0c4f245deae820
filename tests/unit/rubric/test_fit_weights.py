"""Fitted weights: optima by hand, planted weights, signs, splits, and preference rewards."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.optimize import minimize

from cai.errors import JobError
from cai.rubric.fit_weights import (
    FitConfig,
    Ranked,
    fit_weights,
    ordered_pairs,
    pair_errors,
    score,
    split_prompts,
)

NO_PENALTY = FitConfig(penalty=0.0)


def ranked_pair(
    name: str, better: dict[str, float], worse: dict[str, float], *rewards: float
) -> list[Ranked]:
    reward_pair = rewards or (None, None)
    return [Ranked(name, 0, better, reward_pair[0]), Ranked(name, 1, worse, reward_pair[1])]


def test_one_pair_by_hand() -> None:
    """phi 1 against 0: the hinge 1 - w is 0 from w = 1 on.

    The penalty of 0.001 on w * sigma (sigma 1/2) makes it exactly w = 1.
    """
    fitted = fit_weights(ranked_pair("p", {"a": 1.0}, {"a": 0.0}), {"a": 1.0}, FitConfig())
    assert fitted.weights == pytest.approx({"a": 1.0})
    assert fitted.loss == pytest.approx(0.0)
    assert fitted.pairs == 1


def test_a_contradiction_is_outvoted() -> None:
    """Three prompts prefer a, one does not: w = 1 costs 2 * 1/4, w = 0 costs 1, w = -1 2 * 3/4."""
    rows = [
        row for i in range(3) for row in ranked_pair(f"p{i}", {"a": 1.0}, {"a": 0.0})
    ] + ranked_pair("q", {"a": 0.0}, {"a": 1.0})
    fitted = fit_weights(rows, {"a": 0.0}, NO_PENALTY)
    assert fitted.weights == pytest.approx({"a": 1.0})
    assert fitted.loss == pytest.approx(0.5)


def test_signs_are_kept_unless_freed() -> None:
    rows = ranked_pair("p", {"a": 0.0}, {"a": 1.0})
    assert fit_weights(rows, {"a": 2.0}, FitConfig()).weights == {"a": 0.0}
    assert fit_weights(rows, {"a": 2.0}, FitConfig(keep_signs=False)).weights == pytest.approx(
        {"a": -1.0}
    )
    assert fit_weights(rows, {"a": 0.0}, FitConfig()).weights == pytest.approx({"a": -1.0})


def test_the_margin_scales_the_weights() -> None:
    rows = ranked_pair("p", {"a": 1.0}, {"a": 0.0})
    assert fit_weights(rows, {"a": 1.0}, FitConfig(margin=2.5)).weights == pytest.approx({"a": 2.5})


def test_a_reward_that_already_wins_needs_no_rubric() -> None:
    """Rewards 3 and 1 have a standard deviation of 1: their gap of 2 is beyond the margin.

    With the rewards swapped, w has to make up 2 + 1.
    """
    assert fit_weights(
        ranked_pair("p", {"a": 1.0}, {"a": 0.0}, 3.0, 1.0), {"a": 1.0}, FitConfig()
    ).weights == pytest.approx({"a": 0.0})
    fitted = fit_weights(
        ranked_pair("p", {"a": 1.0}, {"a": 0.0}, 1.0, 3.0), {"a": 1.0}, FitConfig()
    )
    assert fitted.weights == pytest.approx({"a": 3.0})
    assert fitted.scale == 1.0


def test_the_reward_is_brought_to_scale() -> None:
    """Ten times the rewards, the same weights."""
    small, large = (
        fit_weights(ranked_pair("p", {"a": 1.0}, {"a": 0.0}, k, 3 * k), {"a": 1.0}, FitConfig())
        for k in (1.0, 10.0)
    )
    assert small.weights == pytest.approx(large.weights)
    assert large.scale == pytest.approx(10 * small.scale)


def planted(count: int, weights: dict[str, float], seed: int = 0) -> list[Ranked]:
    """Four replies a prompt, ranked by their true scores."""
    stream, rows = random.Random(seed), []
    for i in range(count // 4):
        for _ in range(4):
            features = {name: stream.random() for name in weights}
            rows.append(
                Ranked(f"p{i}", -sum(w * features[k] for k, w in weights.items()), features)
            )
    return rows


def test_planted_weights_are_recovered() -> None:
    """Separable: no pair is in the wrong order; the weights have the planted order and signs."""
    true = {"a": 4.0, "b": 2.0, "c": 1.0, "d": -0.5, "e": -3.0}
    train, held_out = split_prompts(planted(5000, true), 0.2, 0)
    fitted = fit_weights(train, dict.fromkeys(true, 0.0), FitConfig(penalty=1e-6))
    assert sorted(true, key=lambda k: fitted.weights[k]) == sorted(true, key=lambda k: true[k])
    assert (
        sum(e for _, e in pair_errors(held_out, fitted.weights, fitted.scale, "rubric"))
        / len(ordered_pairs(held_out))
        < 0.01
    )


def test_the_solver_finds_the_minimum() -> None:
    """Compared with Nelder-Mead from five starts, on noisy pairs, in standardised units."""
    rows = planted(200, {"a": 1.0, "b": -1.0}, seed=3)
    noisy = [Ranked(r.prompt, random.Random(i).random(), r.features) for i, r in enumerate(rows)]
    config = FitConfig(penalty=0.01)
    fitted = fit_weights(noisy, {"a": 0.0, "b": 0.0}, config)
    phi = np.array([[r.features["a"], r.features["b"]] for r in noisy])
    sigma, pairs = phi.std(axis=0), np.array(ordered_pairs(noisy))

    def loss(v: np.ndarray) -> float:
        gaps = (phi[pairs[:, 0]] - phi[pairs[:, 1]]) / sigma
        return float(np.maximum(0, 1 - gaps @ v).mean() + config.penalty * np.abs(v).sum())

    ours = loss(np.array([fitted.weights["a"], fitted.weights["b"]]) * sigma)
    best = min(
        minimize(loss, np.random.default_rng(i).normal(size=2), method="Nelder-Mead").fun
        for i in range(5)
    )
    assert ours <= best + 1e-6


def test_a_prompt_is_on_one_side() -> None:
    rows = planted(400, {"a": 1.0})
    train, held_out = split_prompts(rows, 0.25, 0)
    assert {r.prompt for r in train}.isdisjoint(r.prompt for r in held_out)
    assert len({r.prompt for r in held_out}) == 25
    assert split_prompts(rows, 0.25, 1)[1] != held_out


def test_only_replies_of_one_prompt_are_compared_and_ties_are_not() -> None:
    rows = [Ranked("p", 0, {}), Ranked("p", 0, {}), Ranked("p", 2, {}), Ranked("q", 1, {})]
    assert ordered_pairs(rows) == [(0, 2), (1, 2)]


def test_nothing_to_learn_from() -> None:
    with pytest.raises(JobError, match="nothing to learn from"):
        fit_weights(
            [Ranked("p", 0, {"a": 1.0}), Ranked("q", 1, {"a": 0.0})], {"a": 1.0}, FitConfig()
        )
    with pytest.raises(JobError, match="1 of 2 replies have no reward"):
        fit_weights(
            [Ranked("p", 0, {"a": 1.0}, 1.0), Ranked("p", 1, {"a": 0.0})], {"a": 1.0}, FitConfig()
        )


def test_errors_by_hand() -> None:
    """The rubric is right, the model wrong, and together they tie: 0, 1, one half."""
    rows = ranked_pair("p", {"a": 1.0}, {"a": 0.0}, 0.0, 2.0)
    weights = {"a": 2.0}
    assert [pair_errors(rows, weights, 1.0, part) for part in ("rubric", "rm", "rm+rubric")] == [
        [("p", 0.0)],
        [("p", 1.0)],
        [("p", 0.5)],
    ]
    assert score(rows[1], weights, 2.0, "rm+rubric") == 1.0


def test_a_constant_feature_gets_no_weight() -> None:
    rows = [
        row
        for i in range(2)
        for row in ranked_pair(f"p{i}", {"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 1.0})
    ]
    assert fit_weights(rows, {"a": 0.0, "b": 0.0}, FitConfig()).weights == pytest.approx(
        {"a": 1.0, "b": 0.0}
    )
