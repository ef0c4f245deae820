"""Logistic regressions on differences of pairs, with the difference in length as a covariate.

    loss = mean_i log(1 + exp(-(w·x_i + v c_i)))

There is no bias, so swapping the replies of a pair changes a sign and nothing else. The covariate
c_i takes up what is not to be learnt; it has no penalty. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize

from cai.statistics.estimates import Array

STEPS = 8
"""Penalties from the one at which every weight is 0."""
FACTOR = 0.75
"""Between two of them."""
RIDGE = 1e-3
"""Of the fit that sets the weights: half of it times |w|²."""
ZERO = 1e-4
"""Smaller weights are 0: the optimizer stops near the bound and not on it."""


def log_loss(margins: Array) -> float:
    """Mean -log P of the chosen replies, from their log-odds; 0 without any."""
    return float(np.logaddexp(0, -margins).mean()) if len(margins) else 0.0


def penalty_path(x_NF: Any, covariate_N: Array) -> list[float]:
    """Falling penalties, the first so large that a fit on these rows has no weight but 0."""
    slope = _fit_covariate(covariate_N)
    doubt_N = _doubt(slope * covariate_N) / len(covariate_N)
    largest = float(np.abs(x_NF.T @ doubt_N).max(initial=0.0))
    # parts of the rows have larger gradients than all of them together
    return [2 * largest, *(largest * FACTOR**step for step in range(STEPS))]


def fit_sparse(
    x_NF: Any, covariate_N: Array, penalties: Sequence[float]
) -> Iterator[tuple[Array, float]]:
    """(weights, slope of the covariate) for each penalty on Σ|w|; each begins at the one before.

    w = u - v with u, v ≥ 0, which makes the penalty smooth; the problem is convex.
    """
    width = x_NF.shape[1]
    start = np.zeros(2 * width + 1)
    start[-1] = _fit_covariate(covariate_N)
    bounds = [(0.0, None)] * (2 * width) + [(None, None)]
    for penalty in penalties:

        def loss(v: Array, penalty: float = penalty) -> tuple[float, Array]:
            weights = v[:width] - v[width:-1]
            margins_N = x_NF @ weights + v[-1] * covariate_N
            doubt_N = _doubt(margins_N) / len(margins_N)
            gradient = x_NF.T @ doubt_N
            value = log_loss(margins_N) + penalty * float(v[:-1].sum())
            parts = [penalty - gradient, penalty + gradient, [-float(doubt_N @ covariate_N)]]
            return value, np.concatenate(parts)

        start = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
        weights = start[:width] - start[width:-1]
        yield np.where(np.abs(weights) < ZERO, 0.0, weights), float(start[-1])


def fit_signed(x_NF: Array, covariate_N: Array, signs_F: Array) -> Array:
    """Weights that have the given signs, or are 0; a small ridge bounds them."""

    def loss(v: Array) -> tuple[float, Array]:
        margins_N = x_NF @ v[:-1] + v[-1] * covariate_N
        doubt_N = _doubt(margins_N) / len(margins_N)
        gradient = RIDGE * v[:-1] - x_NF.T @ doubt_N
        value = log_loss(margins_N) + RIDGE * float(v[:-1] @ v[:-1]) / 2
        return value, np.append(gradient, -float(doubt_N @ covariate_N))

    signed = [(0.0, None) if sign > 0 else (None, 0.0) for sign in signs_F]
    start = np.zeros(x_NF.shape[1] + 1)
    bounds = [*signed, (None, None)]
    weights: Array = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x[:-1]
    return weights


def _fit_covariate(covariate_N: Array) -> float:
    """The slope of the covariate alone."""

    def loss(v: Array) -> tuple[float, Array]:
        margins_N = v[0] * covariate_N
        # a tiny ridge, so that a covariate which separates all pairs has a slope
        value = log_loss(margins_N) + 1e-6 * float(v[0] ** 2)
        slope = 2e-6 * v[0] - float(_doubt(margins_N) @ covariate_N) / max(1, len(covariate_N))
        return value, np.array([slope])

    return float(minimize(loss, np.zeros(1), jac=True, method="L-BFGS-B").x[0])


def _doubt(margins_N: Array) -> Array:
    """P of the rejected reply."""
    return np.asarray(1 / (1 + np.exp(np.clip(margins_N, -500, 500))))
