"""Means that carry their error, and differences that carry their interval. Pure: scores in, rows out.

Several draws from one prompt are not several prompts. Every function here takes the prompt of each score as its `clusters`
and treats prompts, not replies, as what was sampled. Left out on purpose: tests of significance and corrections for many
comparisons; intervals say more, and the reader sees how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cai.records import Score
from cai.seeds import derive

CONFIDENCE = 0.95
_BLOCK = 1_000_000
"""Resampled indices held at once: bounds the memory of a bootstrap, whatever the number of prompts."""

Array = NDArray[np.float64]


def estimate(
    metric: str,
    subject: str,
    scores: Sequence[float | None],
    clusters: Sequence[str] | None = None,
    *,
    proportion: bool | None = None,
) -> Score:
    """Mean of the known scores with standard error and 95 % interval. `None` is counted in `unscored` and enters nothing.

    `clusters[i]` is the prompt of `scores[i]`; without it every score is its own cluster. Standard error over n scores s_i in
    G clusters (eq. 4 of arXiv:2411.00640, with the small-sample factor G/(G-1) of Cameron and Miller 2015, §VI.B):

        SE² = G/(G-1) · 1/n² · Σ_g (Σ_{i in g} (s_i − mean))²        one score a cluster: SE² = s²/n, the usual one

    Interval: Student's t with G−1 degrees of freedom; for proportions, Wilson's on an effective sample size
    (`_wilson_clustered`). `stderr` and the interval are None when fewer than two clusters are known: how prompts differ is
    then not known either.

    Args:
        proportion: whether the scores are yes/no. None: yes when every known score is 0 or 1.
    """
    known, groups = _known(scores, clusters)
    n, unscored = len(known), len(scores) - len(known)
    mean = stderr = low = high = None
    if n:
        mean = float(known.mean())
        stderr = _stderr(known, groups)
    if mean is not None and stderr is not None:
        if proportion if proportion is not None else bool(np.isin(known, (0.0, 1.0)).all()):
            low, high = _wilson_clustered(mean, stderr, n, len(set(groups.tolist())))
        else:
            half = stderr * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(set(groups.tolist())) - 1))
            low, high = mean - half, mean + half
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


def _known(
    scores: Sequence[float | None], clusters: Sequence[str] | None
) -> tuple[Array, NDArray[np.int64]]:
    """The known scores, and for each the number of its cluster, counted from 0 in order of first appearance."""
    names = list(map(str, range(len(scores)))) if clusters is None else clusters
    numbers: dict[str, int] = {}
    pairs = [
        (score, numbers.setdefault(name, len(numbers)))
        for score, name in zip(scores, names, strict=True)
        if score is not None
    ]
    return np.array([score for score, _ in pairs], dtype=float), np.array(
        [group for _, group in pairs], dtype=np.int64
    )


def _stderr(known: Array, groups: NDArray[np.int64]) -> float | None:
    """Clustered standard error of the mean; None for fewer than two clusters."""
    clusters = len(set(groups.tolist()))
    if clusters < 2:
        return None
    sums = np.bincount(groups, weights=known - known.mean())
    return float(np.sqrt(clusters / (clusters - 1) * (sums**2).sum()) / len(known))


def wilson(share: float, n: float) -> tuple[float, float]:
    """95 % score interval of Wilson (1927) for a share of `n` independent yes/no scores; `n` need not be whole.

    (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)
    """
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    centre = share + z * z / (2 * n)
    half = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    # At 0 and 1 the end is exact in algebra but not in floating point.
    return (0.0 if share == 0 else max(0.0, low)), (1.0 if share == 1 else min(1.0, high))


def _wilson_clustered(share: float, stderr: float, n: int, clusters: int) -> tuple[float, float]:
    """Wilson's interval on the number of independent scores that would be as uncertain (Korn and Graubard 1998, eq. 1-2).

        deff = SE²·(n−1) / (p(1−p))        at least 1: a smaller one is noise, and would promise too much
        n_eff = n/deff · (t_{n−1} / t_{G−1})²   the second factor because SE² itself comes from only G clusters

    One score a cluster: deff = 1, the plain Wilson interval. At 0 % and 100 % scores do not vary, so deff cannot be seen;
    n_eff is then the number of clusters, as if all draws of a prompt always agreed.
    """
    if share in (0.0, 1.0):
        return wilson(share, clusters)
    deff = max(1.0, stderr**2 * (n - 1) / (share * (1 - share)))
    wide, narrow = (
        float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) for freedom in (clusters - 1, n - 1)
    )
    return wilson(share, n / deff * (narrow / wide) ** 2)


@dataclass(frozen=True)
class Difference:
    """mean(a) − mean(b) over pairs in which both are known, with a 95 % interval; and the same as a share of mean(b)."""

    mean: float | None
    stderr: float | None
    ci_low: float | None
    ci_high: float | None
    relative: float | None
    """mean / mean(b); None when mean(b) is 0."""
    relative_stderr: float | None
    relative_low: float | None
    """None too when some resample has mean(b) = 0: the interval then has no end."""
    relative_high: float | None
    n: int
    """Pairs used."""
    unscored: int
    """Pairs left out because one side is unknown."""


def paired_bootstrap(
    a: Sequence[float | None],
    b: Sequence[float | None],
    clusters: Sequence[str],
    seed: int,
    draws: int = 2000,
) -> Difference:
    """How much higher `a` is than `b`; `a[i]`, `b[i]` are two subjects' scores on prompt `clusters[i]`.

    Whole prompts are resampled with replacement (percentile bootstrap, Efron and Tibshirani 1993, §13.3; by cluster: Field and
    Welsh 2007), which keeps both the pairing and the dependence between draws. Fewer than two prompts: no interval. When no
    resample differs from another (say 100 % against 0 %) the bootstrap is blind: yes/no scores then get Newcombe's interval
    from the two Wilson intervals (1998, method 10), taken as unpaired and so rather too wide; other scores get none.
    """
    pairs = [
        (x, y, g) for x, y, g in zip(a, b, clusters, strict=True) if x is not None and y is not None
    ]
    n, unscored = len(pairs), len(a) - len(pairs)
    if not n:
        return Difference(None, None, None, None, None, None, None, None, n, unscored)
    known = np.array([(x, y) for x, y, _ in pairs], dtype=float)
    mean_a, mean_b = map(float, known.mean(axis=0))
    names = [g for _, _, g in pairs]
    sums, counts = _per_cluster(known, names)
    gap = mean_a - mean_b
    relative = gap / mean_b if mean_b else None
    if len(counts) < 2:
        return Difference(gap, None, None, None, relative, None, None, None, n, unscored)
    means = resample(
        lambda index: sums[index].sum(axis=1) / counts[index].sum(axis=1)[:, None],
        len(counts),
        seed,
        draws,
    )
    gaps = means[:, 0] - means[:, 1]
    stderr, low, high = bootstrap_interval(gaps)
    if low is None and np.isin(known, (0.0, 1.0)).all():
        low, high = _newcombe(mean_a, mean_b, len(counts))
    ratio = (
        bootstrap_interval(gaps / means[:, 1])
        if relative is not None and (means[:, 1] != 0).all()
        else (None, None, None)
    )
    return Difference(gap, stderr, low, high, relative, *ratio, n, unscored)


def _per_cluster(known: Array, names: Sequence[str]) -> tuple[Array, Array]:
    """Sums of each column, and counts, by cluster in order of first appearance."""
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    sums: Array = np.stack(
        [np.bincount(groups, weights=column) for column in known.T], axis=1
    ).astype(float)
    counts: Array = np.bincount(groups).astype(float)
    return sums, counts


def resample(
    statistic: Callable[[NDArray[np.int64]], Array],
    clusters: int,
    seed: int,
    draws: int,
    *where: object,
) -> Array:
    """`statistic` of `draws` resamples; it is given index rows of shape (some draws, clusters). Same seed, same answer."""
    rng = np.random.default_rng(derive(seed, "bootstrap", *where))
    rows = max(1, _BLOCK // clusters)
    sizes = [min(rows, draws - start) for start in range(0, draws, rows)]
    return np.concatenate(
        [statistic(rng.integers(clusters, size=(size, clusters))) for size in sizes]
    )


def bootstrap_interval(values: Array) -> tuple[float | None, float | None, float | None]:
    """(standard deviation, 2.5th, 97.5th percentile) of bootstrap values; all None when they do not vary, which tells nothing."""
    if np.ptp(values) < 1e-12 * max(1.0, float(np.abs(values).max())):
        return None, None, None
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(values.std(ddof=1)), float(low), float(high)


def _newcombe(share_a: float, share_b: float, n: int) -> tuple[float, float]:
    (low_a, high_a), (low_b, high_b) = wilson(share_a, n), wilson(share_b, n)
    gap = share_a - share_b
    down = float(np.hypot(share_a - low_a, high_b - share_b))
    up = float(np.hypot(high_a - share_a, share_b - low_b))
    return max(-1.0, gap - down), min(1.0, gap + up)
