"""Bradley–Terry strengths and length-controlled win rates, for many resamples at once.

Both are logistic regressions on soft wins, fitted by Newton's method. Left out on purpose: ties as
a parameter of their own (a tie is half a win for each side), and strengths that change over time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cai.statistics.estimates import Array

ELO_PER_NAT = 400 / np.log(10)
"""Elo points per nat of strength: 400 points are odds of ten to one."""
MAX_NATS = 12.0
"""Strengths beyond this are unbounded: the likelihood has no maximum."""
RIDGE = 1e-8
"""Share of the comparisons that pulls a strength to 0, so that an unbounded one ends somewhere."""
ITERATIONS = 60
MAX_STEP = 2.0
TOLERANCE = 1e-9


def strengths(wins: Array) -> Array:
    """Log-strengths θ of maximum likelihood, relative to the first subject.

        P(i beats j) = σ(θ_i − θ_j)      θ_0 = 0

    Args:
        wins: shape (…, K, K): `wins[…, i, j]` is the sum of P(i beats j) over the comparisons.

    Returns:
        Shape (…, K). NaN where no chain of comparisons leads to the first subject, or where the
        likelihood has no maximum: a subject, or a group of them, only won or only lost.
    """
    games = wins + np.swapaxes(wins, -1, -2)
    count = wins.shape[-1]
    ridge = RIDGE * np.maximum(games.sum(axis=(-1, -2)), 1.0)[..., None]
    theta = np.zeros(wins.shape[:-1])
    for _ in range(ITERATIONS):
        expected = 1 / (1 + np.exp(theta[..., None, :] - theta[..., :, None]))
        gradient = (wins - games * expected).sum(axis=-1) - ridge * theta
        spread = games * expected * (1 - expected)
        hessian = (spread.sum(axis=-1) + ridge)[..., None] * np.eye(count) - spread
        step = np.zeros_like(theta)
        step[..., 1:] = _solve(hessian[..., 1:, 1:], gradient[..., 1:])
        theta = theta + step
        if np.abs(step).max(initial=0.0) < TOLERANCE:
            break
    linked = np.linalg.matrix_power((games > 0) | np.eye(count, dtype=bool), count)[..., 0, :]
    return np.where(linked & (np.abs(theta) < MAX_NATS), theta, np.nan)


def length_controlled(shares: Array, lengths: Array, weights: Array) -> Array:
    """Win rates at equal length (arXiv:2404.04475, without its term for the difficulty of prompts).

        logit P(win) = θ + φ·tanh(Δ / sd(Δ))      result: σ(θ)

    Δ is the difference in length. φ has a standard normal prior, so that few comparisons give no
    extreme one.

    Args:
        shares: P(win) of each of n comparisons.
        lengths: Δ of each.
        weights: shape (…, n): how often each counts.

    Returns:
        Shape (…).
    """
    deviation = float(lengths.std())
    scaled = np.tanh(lengths / deviation) if deviation else np.zeros_like(lengths)
    design = np.stack([np.ones_like(scaled), scaled], axis=-1)
    total = weights.sum(axis=-1)
    ridge = np.stack([RIDGE * np.maximum(total, 1.0), np.ones_like(total)], axis=-1)
    theta = np.zeros((*weights.shape[:-1], 2))
    for _ in range(ITERATIONS):
        expected = 1 / (1 + np.exp(-np.clip(theta @ design.T, -500, 500)))
        gradient = (weights * (shares - expected)) @ design - ridge * theta
        spread = weights * expected * (1 - expected)
        hessian = np.einsum("...n,ni,nj->...ij", spread, design, design)
        step = _solve(hessian + ridge[..., None] * np.eye(2), gradient)
        theta = theta + step
        if np.abs(step).max(initial=0.0) < TOLERANCE:
            break
    result: Array = 1 / (1 + np.exp(-theta[..., 0]))
    return result


def _solve(hessian: Array, gradient: Array) -> Array:
    """Newton's step, no longer than `MAX_STEP` in any coordinate."""
    step: Any = np.linalg.solve(hessian, gradient[..., None])[..., 0]
    longest = np.abs(step).max(axis=-1, keepdims=True, initial=0.0)
    shortened: Array = step * np.minimum(1.0, MAX_STEP / np.maximum(longest, 1e-300))
    return shortened
