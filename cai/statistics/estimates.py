"""Means with standard errors and intervals. Pure: scores in, rows out.

Several draws from one prompt are not several prompts. Every function takes the prompt of each score
as its `clusters`, and treats prompts, not replies, as the sampled units. Left out on purpose:
significance tests and corrections for multiple comparisons. Intervals say more, and the reader sees
how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cai.records import Score
from cai.seeds import derive

CONFIDENCE = 0.95
_MAX_INDICES = 1_000_000
"""Resampled indices in memory at once: bounds a bootstrap's memory for any number of prompts."""

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Interval = tuple[float | None, float | None, float | None]
"""(standard error, low, high)"""


def score_row(
    name: tuple[str, str],
    mean: float | None,
    interval: Interval = (None, None, None),
    *,
    n: int,
    unscored: int = 0,
) -> Score:
    """The row of these numbers.

    Args:
        name: (metric, subject).
        n: known scores.
    """
    metric, subject = name
    stderr, low, high = interval
    return Score(
        metric=metric,
        subject=subject,
        mean=mean,
        stderr=stderr,
        ci_low=low,
        ci_high=high,
        n=n,
        unscored=unscored,
    )


def estimate(
    metric: str,
    subject: str,
    scores: Sequence[float | None],
    clusters: Sequence[str] | None = None,
    *,
    proportion: bool | None = None,
) -> Score:
    """Mean of the known scores with standard error and 95 % interval.

    Scores of None are counted in `unscored` and ignored otherwise. Standard error over n scores s_i
    in G clusters (eq. 4 of arXiv:2411.00640, with the small-sample factor G/(G-1) of Cameron and
    Miller 2015, §VI.B):

        SE² = G/(G-1) · 1/n² · Σ_g (Σ_{i in g} (s_i − mean))²

    With one score a cluster this is the usual SE² = s²/n. Interval: Student's t with G−1 degrees of
    freedom; for proportions, Wilson's on an effective sample size (`wilson_clustered`).

    Args:
        clusters: the prompt of each score; None: every score is its own cluster.
        proportion: whether the scores are yes/no. None: yes when every known score is 0 or 1.

    Returns:
        `stderr` and the interval are None for fewer than two clusters with known scores, as the
        variance between prompts is then unknown.
    """
    known, groups = known_scores(scores, clusters)
    n = len(known)
    cluster_count = len(set(groups.tolist()))
    mean = stderr = low = high = None
    if n:
        mean = float(known.mean())
        stderr = clustered_stderr(known, groups)
    if mean is not None and stderr is not None:
        if proportion is None:
            proportion = yes_no(known)
        if proportion:
            low, high = wilson_clustered(mean, stderr, n, cluster_count)
        else:
            half = stderr * float(stats.t.ppf((1 + CONFIDENCE) / 2, cluster_count - 1))
            low, high = mean - half, mean + half
    return score_row((metric, subject), mean, (stderr, low, high), n=n, unscored=len(scores) - n)


def yes_no(known: Array) -> bool:
    """Whether all scores are 0 or 1."""
    return bool(np.isin(known, (0.0, 1.0)).all())


def known_scores(
    scores: Sequence[float | None], clusters: Sequence[str] | None
) -> tuple[Array, Indices]:
    """(known scores, their clusters' numbers)."""
    names = [str(i) for i in range(len(scores))] if clusters is None else clusters
    pairs = [(s, name) for s, name in zip(scores, names, strict=True) if s is not None]
    values = np.array([score for score, _ in pairs], dtype=float)
    return values, cluster_numbers([name for _, name in pairs])


def cluster_numbers(names: Sequence[str]) -> Indices:
    """Each name's number, counted from 0 in order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def clustered_stderr(known: Array, groups: Indices) -> float | None:
    """Clustered standard error of the mean; None for fewer than two clusters."""
    clusters = len(set(groups.tolist()))
    if clusters < 2:
        return None
    sums = np.bincount(groups, weights=known - known.mean())
    return float(np.sqrt(clusters / (clusters - 1) * (sums**2).sum()) / len(known))


def wilson(share: float, n: float) -> tuple[float, float]:
    """95 % score interval of Wilson (1927) for a share of `n` independent yes/no scores.

        (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)

    Args:
        n: need not be an integer.
    """
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    center = share + z * z / (2 * n)
    half = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    low = (center - half) / (1 + z * z / n)
    high = (center + half) / (1 + z * z / n)
    # At shares of 0 and 1 that end is exact in algebra but not in floating point.
    return (0.0 if share == 0 else max(0.0, low)), (1.0 if share == 1 else min(1.0, high))


def wilson_clustered(share: float, stderr: float, n: int, clusters: int) -> tuple[float, float]:
    """Wilson's interval on the effective sample size (Korn and Graubard 1998, eq. 1-2).

        deff = SE²·(n−1) / (p(1−p))
        n_eff = n/deff · (t_{n−1} / t_{G−1})²

    deff is at least 1: a smaller one is noise and would make the interval too narrow. The second
    factor of n_eff accounts for SE² being estimated from only G clusters. With one score a cluster
    deff is 1: the plain Wilson interval. At 0 % and 100 % scores do not vary, so deff is undefined;
    n_eff is then the number of clusters, as if all draws of a prompt always agreed.
    """
    if share in (0.0, 1.0):
        return wilson(share, clusters)
    deff = max(1.0, stderr**2 * (n - 1) / (share * (1 - share)))
    t_clusters = float(stats.t.ppf((1 + CONFIDENCE) / 2, clusters - 1))
    t_scores = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
    return wilson(share, n / deff * (t_scores / t_clusters) ** 2)


def resample(
    statistic: Callable[[Indices], Array], clusters: int, seed: int, draws: int, *address: object
) -> Array:
    """`statistic` of `draws` bootstrap resamples; the same seed gives the same values.

    Args:
        statistic: from indices of clusters, shape (resamples, clusters), to one value per resample.
        address: the rest of the random stream's address.
    """
    rng = np.random.default_rng(derive(seed, "bootstrap", *address))
    block = max(1, _MAX_INDICES // clusters)
    sizes = [min(block, draws - start) for start in range(0, draws, block)]
    return np.concatenate(
        [statistic(rng.integers(clusters, size=(size, clusters))) for size in sizes]
    )


def bootstrap_interval(values: Array, clusters: int | None = None) -> Interval:
    """(standard deviation, 2.5th, 97.5th percentile) of bootstrap values.

    All None when the values do not vary: the bootstrap then says nothing.

    Args:
        clusters: number that was resampled: the percentiles are then those of `expanded_levels`.
    """
    if np.ptp(values) < 1e-12 * max(1.0, float(np.abs(values).max())):
        return None, None, None
    levels = expanded_levels(clusters) if clusters else _LEVELS
    low, high = np.quantile(values, levels)
    return float(values.std(ddof=1)), float(low), float(high)


def expanded_levels(clusters: int) -> tuple[float, float]:
    """Percentiles that make up for a bootstrap's narrowness at few clusters (Hesterberg 2015, §5).

    Φ(±√(G/(G−1))·t_{G−1})
    """
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, clusters - 1))
    level = float(stats.norm.cdf(np.sqrt(clusters / (clusters - 1)) * quantile))
    return 1 - level, level


_LEVELS = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
