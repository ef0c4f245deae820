"""The harmonic mean of two shares of different samples, with an interval. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cai.records import Score
from cai.statistics.estimates import (
    Array,
    Indices,
    Interval,
    bootstrap_interval,
    resample,
    score_row,
)

DRAWS = 2000
"""Bootstrap resamples."""


def harmonic(a: float, b: float) -> float:
    """Harmonic mean of two shares; 0, its limit, when both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


def cluster_sums(values: Sequence[float | None], clusters: Sequence[str]) -> Array:
    """(sum, count) of the known values of every cluster that has one; shape (clusters, 2)."""
    sums: dict[str, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        if value is not None:
            total = sums.setdefault(cluster, [0.0, 0.0])
            total[0] += value
            total[1] += 1
    return np.array(list(sums.values())).reshape(-1, 2)


def harmonic_score(
    metric: str, subject: str, sides: Mapping[str, tuple[Score, Array]], seed: int
) -> Score:
    """Harmonic mean of two shares, with a bootstrap interval.

    The two sides are resampled separately, as they are two samples. When resamples do not vary, the
    interval comes from the sides' intervals: the harmonic mean is increasing in both, so their two
    lower ends and their two upper ends bound it.

    Args:
        sides: name -> (the side's share, its `cluster_sums`). The name addresses its resamples.
    """
    first, second = (share for share, _ in sides.values())
    mean = None
    interval: Interval = (None, None, None)
    if first.mean is not None and second.mean is not None:
        mean = harmonic(first.mean, second.mean)
        if all(len(sums) > 1 for _, sums in sides.values()):
            shares = [_resampled_shares(sums, seed, name) for name, (_, sums) in sides.items()]
            means = [harmonic(a, b) for a, b in zip(*shares, strict=True)]
            stderr, low, high = bootstrap_interval(np.array(means))
            if low is None:
                low, high = _bounds(first, second)
            interval = stderr, low, high
    return score_row(
        (metric, subject),
        mean,
        interval,
        n=first.n + second.n,
        unscored=first.unscored + second.unscored,
    )


def _bounds(first: Score, second: Score) -> tuple[float | None, float | None]:
    if first.ci_low is None or first.ci_high is None:
        return None, None
    if second.ci_low is None or second.ci_high is None:
        return None, None
    return harmonic(first.ci_low, second.ci_low), harmonic(first.ci_high, second.ci_high)


def _resampled_shares(sums: Array, seed: int, side: str) -> list[float]:
    def share(indices: Indices) -> Array:
        totals: Array = sums[indices].sum(axis=1)
        return np.asarray(totals[:, 0] / totals[:, 1])

    return [float(value) for value in resample(share, len(sums), seed, DRAWS, side)]
