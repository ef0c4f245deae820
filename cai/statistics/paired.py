"""Differences between two models' scores on the same prompts, with intervals. Pure arithmetic.

A bootstrap over prompts is left out on purpose. Near 0 or 100 %, and for few prompts, resamples
hardly vary: 95 % intervals, percentile or BCa, from two replies to each of 18 prompts at rates of
3 % hold the true difference in 77 % of simulated samples. The intervals here hold it in 95 % or
more, give or take 1.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from cai.statistics.estimates import (
    CONFIDENCE,
    Array,
    Indices,
    cluster_numbers,
    clustered_stderr,
    wilson_clustered,
    yes_no,
)


@dataclass(frozen=True)
class Difference:
    """mean(a) − mean(b) over pairs with both sides known, with a 95 % interval.

    `relative…`: the same as a share of mean(b).
    """

    n: int
    """Pairs used."""
    unscored: int
    """Pairs left out because one side is unknown."""
    mean: float | None = None
    stderr: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    relative: float | None = None
    """mean / mean(b); None when mean(b) is 0."""
    relative_stderr: float | None = None
    relative_low: float | None = None
    """None, like the other end, also where mean(b) may be 0: the interval is then unbounded."""
    relative_high: float | None = None


@dataclass(frozen=True)
class _Side:
    """A mean with the ends of its own interval."""

    mean: float
    low: float
    high: float


def paired_difference(
    a: Sequence[float | None],
    b: Sequence[float | None],
    clusters: Sequence[str],
    *,
    proportion: bool | None = None,
) -> Difference:
    """mean(a) − mean(b) with an interval; `a[i]`, `b[i]` are scores on prompt `clusters[i]`.

    Shares get Newcombe's hybrid score interval for paired proportions (1998, method 10), see
    `_hybrid`; other scores Student's t on the clustered standard error of the differences. There is
    no interval for fewer than two prompts, and none where scores other than shares all differ
    alike.

    Args:
        proportion: whether the scores are shares, from 0 to 1. None: yes when every known score is
            0 or 1.
    """
    pairs = [
        (x, y, name)
        for x, y, name in zip(a, b, clusters, strict=True)
        if x is not None and y is not None
    ]
    n, unscored = len(pairs), len(a) - len(pairs)
    if not n:
        return Difference(n, unscored)
    known = np.array([(x, y) for x, y, _ in pairs], dtype=float)
    groups = cluster_numbers([name for _, _, name in pairs])
    mean_a, mean_b = (float(mean) for mean in known.mean(axis=0))
    gap = mean_a - mean_b
    relative = gap / mean_b if mean_b else None
    stderr = clustered_stderr(known[:, 0] - known[:, 1], groups)
    if stderr is None:
        return Difference(n, unscored, mean=gap, relative=relative)
    relative_stderr = None
    if relative is not None:
        rest = known[:, 0] - (1 + relative) * known[:, 1]  # delta method
        relative_stderr = (clustered_stderr(rest, groups) or 0.0) / abs(mean_b)
    proportion = yes_no(known) if proportion is None else proportion
    if not proportion:
        half = stderr * _quantile_of_t(int(groups.max()))
        low, high = (gap - half, gap + half) if stderr else (None, None)
        return Difference(n, unscored, gap, stderr, low, high, relative, relative_stderr)
    sides = _side(known[:, 0], groups), _side(known[:, 1], groups)
    correlation = _corrected_correlation(known, groups)
    ends = _hybrid(*sides, correlation)
    ratio = (None, None) if relative is None else _hybrid_ratio(*sides, correlation)
    return Difference(n, unscored, gap, stderr, *ends, relative, relative_stderr, *ratio)


def _quantile_of_t(degrees: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))


def _side(values: Array, groups: Indices) -> _Side:
    mean, stderr = float(values.mean()), clustered_stderr(values, groups) or 0.0
    return _Side(mean, *wilson_clustered(mean, stderr, len(values), int(groups.max()) + 1))


def _corrected_correlation(known: Array, groups: Indices) -> float:
    """Correlation between the two means, from the sums of each prompt's residuals.

    With one yes/no score a prompt it is phi of the 2 × 2 table. One above 0 is reduced by
    Newcombe's continuity correction, 1 / (2·G·√(p_a(1−p_a)·p_b(1−p_b))) for G prompts, but not
    below 0: a correlation that is overrated would make the interval too narrow.
    """
    residuals = known - known.mean(axis=0)
    sums_a, sums_b = (np.bincount(groups, weights=column) for column in residuals.T)
    scale = math.sqrt(float((sums_a**2).sum() * (sums_b**2).sum()))
    if not scale:
        return 0.0
    correlation = float((sums_a * sums_b).sum()) / scale
    if correlation <= 0:
        return max(-1.0, correlation)
    mean_a, mean_b = known.mean(axis=0)
    spread = math.sqrt(float(mean_a * (1 - mean_a) * mean_b * (1 - mean_b)))
    return max(0.0, correlation - 1 / (2 * (int(groups.max()) + 1) * spread))


def _hybrid(a: _Side, b: _Side, correlation: float) -> tuple[float, float]:
    """Interval of a − b (Newcombe 1998, method 10).

        low  = a − b − √((a−l_a)² − 2φ(a−l_a)(u_b−b) + (u_b−b)²)
        high = a − b + √((b−l_b)² − 2φ(b−l_b)(u_a−a) + (u_a−a)²)

    l and u are the ends of each side's Wilson interval. For several draws a prompt, those are on
    the effective sample size: with one draw this is Newcombe's interval itself.
    """
    gap = a.mean - b.mean
    below = _third_side(a.mean - a.low, b.high - b.mean, correlation)
    above = _third_side(b.mean - b.low, a.high - a.mean, correlation)
    return max(-1.0, gap - below), min(1.0, gap + above)


def _third_side(x: float, y: float, correlation: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * correlation * x * y + y * y))


def _hybrid_ratio(
    a: _Side, b: _Side, correlation: float
) -> tuple[float, float] | tuple[None, None]:
    """Interval of a/b − 1: the r at which the interval of a − r·b ends at 0 (MOVER-R, Donner and
    Zou 2012). The lower root of its quadratic is written without a difference that would cancel.
    """
    if b.low <= 0:
        return None, None
    cross = a.mean * b.mean - correlation * (a.mean - a.low) * (b.high - b.mean)
    upper = a.low * (2 * a.mean - a.low)
    root = cross + math.sqrt(max(0.0, cross**2 - upper * b.high * (2 * b.mean - b.high)))
    low = upper / root if root > 0 else 0.0
    cross = a.mean * b.mean - correlation * (a.high - a.mean) * (b.mean - b.low)
    lower = b.low * (2 * b.mean - b.low)
    root = cross + math.sqrt(max(0.0, cross**2 - a.high * (2 * a.mean - a.high) * lower))
    return low - 1, root / lower - 1
