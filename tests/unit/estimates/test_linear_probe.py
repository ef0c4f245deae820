"""The probe's optimum by hand, and what it must not learn."""

from __future__ import annotations

import numpy as np
import pytest

from cai.statistics.linear_probe import fit, log_loss


def test_a_probe_of_one_dimension_by_hand() -> None:
    """Two pairs, states +1 and -1: the spread is 1, so x = 2 for both, and E = 1.

    The optimum of log(1 + exp(-2w)) + w²/2 has w = 2 / (1 + exp(2w)).
    """
    better, worse = np.array([[1.0], [1.0]]), np.array([[-1.0], [-1.0]])
    probe = fit(better, worse, np.zeros(2), penalty=1.0)
    w = float(probe.direction_E[0])
    assert w == pytest.approx(2 / (1 + np.exp(2 * w)), abs=1e-5)
    assert probe.scores(np.array([3.0])) == pytest.approx(3 * w)


def test_swapped_pairs_give_the_opposite_direction() -> None:
    stream = np.random.default_rng(0)
    better, worse, longer = (stream.normal(size=size) for size in ((9, 4), (9, 4), 9))
    forth = fit(better, worse, longer, 0.3).direction_E
    back = fit(worse, better, -longer, 0.3).direction_E
    assert back == pytest.approx(-forth, abs=1e-5)


def test_what_the_covariate_explains_is_left_out() -> None:
    """Better replies are longer, and the first dimension is their length: nothing is learnt."""
    stream = np.random.default_rng(0)
    longer = 1 + stream.random(40)
    better = np.stack([longer, stream.normal(size=40)], 1)
    worse = np.zeros((40, 2))
    worse[:, 1] = stream.normal(size=40)
    with_length = fit(better, worse, np.zeros(40), 0.3).direction_E[0]
    without = fit(better, worse, longer, 0.3).direction_E[0]
    assert with_length > 0.5
    assert abs(without) < with_length / 50


def test_a_dimension_that_never_varies_counts_for_nothing() -> None:
    better, worse = np.array([[1.0, 5.0], [2.0, 5.0]]), np.array([[0.0, 5.0], [0.5, 5.0]])
    probe = fit(better, worse, np.zeros(2), 1.0)
    assert probe.direction_E[1] == 0
    assert np.isfinite(probe.direction_E).all()


def test_log_loss_by_hand() -> None:
    assert log_loss(np.array([0.0])) == pytest.approx(np.log(2))
    assert log_loss(np.array([np.log(3), np.log(3)])) == pytest.approx(-np.log(0.75))
