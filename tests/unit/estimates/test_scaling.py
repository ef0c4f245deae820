"""Scaling laws: exact curves, planted ones recovered, predictions inside their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.errors import UsageError
from cai.statistics.scaling_laws import Law, fit, predict

COMPUTE = [float(x) for x in np.logspace(17, 21, 9)]


def test_exact_curves() -> None:
    """4·x^(−1/2) + 2 at 1, 4, 16, 64 is 6, 4, 3, 2.5. −log p = 2·x^(−1) at 1, 2, 4 is 2, 1, 1/2."""
    loss = fit([1, 4, 16, 64], [6, 4, 3, 2.5])
    assert (loss.coefficient, loss.exponent, loss.floor) == pytest.approx((4, -0.5, 2), rel=1e-4)
    rate = fit([1, 2, 4], [float(np.exp(-v)) for v in (2, 1, 0.5)], "pass_rate")
    assert (rate.coefficient, rate.exponent) == pytest.approx((2, -1))
    assert float(rate(np.array([8.0]))[0]) == pytest.approx(np.exp(-0.25))


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 3), st.floats(-0.5, -0.08), st.floats(0.5, 3))
def test_planted_curves_are_recovered(scale: float, exponent: float, floor: float) -> None:
    curve = [scale * (x / 1e19) ** exponent + floor for x in COMPUTE]
    fitted = fit(COMPUTE, curve)
    beyond = scale * 1e4**exponent + floor
    assert float(fitted(np.array([1e23]))[0]) == pytest.approx(beyond, rel=1e-3)


@pytest.mark.parametrize("law", ["loss", "pass_rate"])
def test_a_larger_run_is_inside_the_interval(law: Law) -> None:
    """A hundred times the compute of nine small runs, in 90 % or more of 50 experiments."""
    rng = np.random.default_rng(0)
    hits = []
    for seed in range(50):
        xs = np.array([*COMPUTE, 1e23])
        noise = np.exp(0.01 * rng.normal(size=10))
        curve = (1.7 + 2 * (xs / 1e19) ** -0.15 if law == "loss" else (xs / 1e19) ** -0.12) * noise
        values = [float(v) for v in (curve if law == "loss" else np.exp(-curve))]
        [row] = predict(COMPUTE, values[:9], [1e23], law, seed=seed)
        hits.append(row.low <= values[9] <= row.high)
    assert np.mean(hits) >= 0.9


@pytest.mark.parametrize(
    ("x", "y", "law", "message"),
    [
        ([1, 2, 3], [3, 2, 1], "loss", "3 different values of x: a fit needs 4 or more"),
        ([1, 2, 3, 0], [3, 2, 1, 1], "loss", "every x must be a number above 0"),
        ([1, 2, 3, 4], [3, 2, 1, 0], "loss", "every loss must be a number above 0"),
        ([1, 2, 3], [0.1, 0.2, 1.0], "pass_rate", "above 0 and below 1"),
        ([1, 2, 3], [0.3, 0.2, 0.1], "pass_rate", "does not rise"),
    ],
)
def test_what_cannot_be_fitted(x: list[float], y: list[float], law: Law, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fit(x, y, law)


def test_a_loss_without_trend_is_fitted_without_a_warning() -> None:
    fitted = fit([1, 2, 3, 4, 5], [2, 2, 2, 2, 2])
    assert float(fitted(np.array([10.0]))[0]) == pytest.approx(2, rel=0.01)
