"""Strengths and length-controlled win rates: by hand, and planted ones recovered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.statistics.bradley_terry import ELO_PER_NAT, length_controlled, strengths
from cai.statistics.estimates import Array, expanded_levels
from cai.statistics.rating_intervals import times_drawn


def played(theta: Array, prompts: int, rng: np.random.Generator) -> Array:
    """One game of every two subjects on each prompt: shape (prompts, K, K)."""
    count = len(theta)
    chance = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
    won = np.triu(rng.random((prompts, count, count)) < chance, 1)
    lost = np.triu(np.ones((count, count)), 1) - won
    wins: Array = won + np.swapaxes(lost, -1, -2)
    return wins


def test_two_subjects_by_hand() -> None:
    """3 wins of 4: θ_1 = ln(3/1), and 400 points are odds of ten."""
    assert strengths(np.array([[0, 1.0], [3.0, 0]])) == pytest.approx([0, math.log(3)], abs=1e-6)
    tenfold = strengths(np.array([[0, 1.0], [10.0, 0]]))
    assert ELO_PER_NAT * tenfold[1] == pytest.approx(400, abs=1e-3)


def test_planted_strengths_are_recovered() -> None:
    theta = np.array([0.0, 1.2, -0.7, 0.4])
    wins = played(theta, 20_000, np.random.default_rng(0)).sum(axis=0)
    assert strengths(wins) == pytest.approx(theta, abs=0.05)


@settings(max_examples=30)
@given(st.lists(st.floats(0.1, 50), min_size=6, max_size=6))
def test_strengths_solve_the_likelihood(values: list[float]) -> None:
    """At the maximum each subject's expected wins are its wins."""
    wins = np.zeros((3, 3))
    wins[[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]] = values
    theta = strengths(wins)
    expected = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
    gap = (wins - (wins + wins.T) * expected).sum(axis=1)
    assert np.abs(gap).max() < 1e-4 * wins.sum()


def test_unbounded_and_unlinked_strengths_are_unknown() -> None:
    always = strengths(np.array([[0, 0.0], [5.0, 0]]))
    assert math.isnan(always[1])
    apart = np.zeros((3, 3))
    apart[0, 1] = apart[1, 0] = 4
    theta = strengths(apart)
    assert theta[1] == pytest.approx(0)
    assert math.isnan(theta[2])


def test_the_bootstrap_interval_covers() -> None:
    """500 experiments of 100 prompts: 95 % intervals by prompt hold the truth in 93 % or more."""
    rng = np.random.default_rng(1)
    theta = np.array([0.0, 0.8, -0.5])
    prompts, resamples, totals = 100, 250, []
    for _ in range(500):
        wins = played(theta, prompts, rng)
        counts = times_drawn(rng.integers(prompts, size=(resamples, prompts)))
        totals.append((counts @ wins.reshape(prompts, 9)).reshape(-1, 3, 3))
    low, high = np.quantile(strengths(np.array(totals)), expanded_levels(prompts), axis=1)
    covered = ((low <= theta) & (theta <= high)).mean(axis=0)
    assert covered[1:].min() >= 0.93


def test_length_is_controlled_for() -> None:
    """A judge that likes length alone, and a subject that writes more: half at equal length."""
    rng = np.random.default_rng(2)
    lengths = rng.normal(10, 10, 4000)
    scaled = np.tanh(lengths / lengths.std())
    won = (rng.random(4000) < 1 / (1 + np.exp(-1.5 * scaled))).astype(float)
    assert won.mean() > 0.65
    assert float(length_controlled(won, lengths, np.ones(4000))) == pytest.approx(0.5, abs=0.04)


def test_equal_lengths_leave_the_win_rate() -> None:
    shares = np.array([1.0, 1, 1, 0])
    assert float(length_controlled(shares, np.full(4, 7.0), np.ones(4))) == pytest.approx(0.75)
