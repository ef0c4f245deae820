"""Elo ratings and length-controlled win rates with bootstrap intervals over clusters. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cai.statistics.bradley_terry import ELO_PER_NAT, length_controlled, strengths
from cai.statistics.estimates import (
    Array,
    Indices,
    Interval,
    bootstrap_interval,
    cluster_numbers,
    resample,
)

DRAWS = 1000
"""Bootstrap resamples."""
MIN_KNOWN_DRAWS = 0.975
"""Share of the resamples that must have a rating, so that the interval's ends are known."""
UNKNOWN: Interval = (None, None, None)


def rated(wins: Array, seed: int, address: Sequence[str]) -> tuple[Array, list[Interval]]:
    """(Elo rating of each of K subjects, its interval); NaN where a rating has no bound.

    An interval is unknown where the rating is, and where more than 2.5 % of resamples have none.

    Args:
        wins: shape (clusters, K, K): sums of P(i beats j) in each cluster.
        address: of the resamples.
    """
    clusters, count, _ = wins.shape
    values = ELO_PER_NAT * strengths(wins.sum(axis=0))
    if clusters < 2:
        return values, [UNKNOWN] * count

    def statistic(drawn: Indices) -> Array:
        totals: Array = times_drawn(drawn) @ wins.reshape(clusters, -1)
        elo: Array = ELO_PER_NAT * strengths(totals.reshape(-1, count, count))
        return elo

    draws = resample(statistic, clusters, seed, DRAWS, "elo", *address)
    return values, [
        _known_interval(column, clusters) if not np.isnan(value) else UNKNOWN
        for value, column in zip(values, draws.T, strict=True)
    ]


def _known_interval(draws: Array, clusters: int) -> Interval:
    known = draws[~np.isnan(draws)]
    if len(known) < MIN_KNOWN_DRAWS * len(draws):
        return UNKNOWN
    return bootstrap_interval(known, clusters)


def length_controlled_rate(
    shares: Sequence[float],
    lengths: Sequence[float],
    clusters: Sequence[str],
    seed: int,
    address: Sequence[str],
) -> tuple[float | None, Interval]:
    """(the win rate that replies of equal length would have, its interval); None without rows.

    Args:
        shares: P(win) of each comparison.
        lengths: by how much the reply is longer than the other one.
        address: of the resamples.
    """
    if not shares:
        return None, UNKNOWN
    won, longer = np.array(shares, dtype=float), np.array(lengths, dtype=float)
    mean = float(length_controlled(won, longer, np.ones(len(won))))
    numbers = cluster_numbers(clusters)
    count = int(numbers.max()) + 1
    if count < 2:
        return mean, UNKNOWN

    def statistic(drawn: Indices) -> Array:
        return length_controlled(won, longer, times_drawn(drawn)[:, numbers])

    return mean, bootstrap_interval(resample(statistic, count, seed, DRAWS, *address), count)


def times_drawn(drawn: Indices) -> Array:
    """How often each cluster is in each resample: shape (resamples, clusters)."""
    resamples, clusters = drawn.shape
    flat = (drawn + clusters * np.arange(resamples)[:, None]).ravel()
    counts = np.bincount(flat, minlength=resamples * clusters)
    return counts.reshape(resamples, clusters).astype(float)
