"""A mean from many verdicts of a judge and few of people. Pure arithmetic.

Prediction-powered inference with a tuned weight (PPI++, arXiv:2311.01453; arXiv:2301.09633): the
judge may be biased in any way, and the interval still holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from cai.records import Score
from cai.statistics.estimates import CONFIDENCE, Array, cluster_numbers, clustered_stderr


def corrected_mean(
    metric: str,
    subject: str,
    judge: Sequence[float | None],
    people: Sequence[float | None],
    clusters: Sequence[str],
) -> Score:
    """Mean of people's verdicts over all items, of which people saw only some.

        θ = mean(y) + λ·(mean(f_rest) − mean(f_seen))
        SE² = SE²(y − λ·f_seen) + λ²·SE²(f_rest)
        λ = cov(y, f) / ((1 + n/N)·var(f)), within [0, 1]

    y are people's verdicts on n items, f_seen the judge's on the same, f_rest the judge's on the N
    others. A judge without relation to people has λ = 0: the mean of people's verdicts alone.
    Standard errors are clustered by prompt; the interval is Student's t on the prompts that people
    saw, cut to [0, 1].

    Args:
        judge, people: verdicts on item i; None: unknown. An item without the judge's is left out.
        clusters: the prompt of each item.
    """
    known = [
        (f, y, name) for f, y, name in zip(judge, people, clusters, strict=True) if f is not None
    ]
    seen = [(f, y, name) for f, y, name in known if y is not None]
    rest = [(f, name) for f, y, name in known if y is None]
    mean = stderr = low = high = None
    if seen:
        f = np.array([row[0] for row in seen])
        y = np.array([row[1] for row in seen])
        f_rest = np.array([row[0] for row in rest])
        weight = _weight(f, y, len(rest))
        mean = float(y.mean() + weight * (f_rest.mean() - f.mean() if rest else 0.0))
        groups = cluster_numbers([name for _, _, name in seen])
        of_seen = clustered_stderr(y - weight * f, groups)
        of_rest = clustered_stderr(f_rest, cluster_numbers([n for _, n in rest])) if rest else 0.0
        if of_seen is not None and (of_rest is not None or not weight):
            stderr = float(np.hypot(of_seen, weight * (of_rest or 0.0)))
            half = stderr * float(stats.t.ppf((1 + CONFIDENCE) / 2, int(groups.max())))
            low, high = max(0.0, mean - half), min(1.0, mean + half)
        mean = min(1.0, max(0.0, mean))
    return Score(
        metric=metric,
        subject=subject,
        mean=mean,
        stderr=stderr,
        ci_low=low,
        ci_high=high,
        n=len(known) if seen else 0,
        unscored=len(judge) - (len(known) if seen else 0),
    )


def _weight(f: Array, y: Array, others: int) -> float:
    """λ: how far the judge's verdicts are used."""
    variance = float(f.var(ddof=1)) if len(f) > 1 else 0.0
    if not variance or not others:
        return 0.0
    covariance = float(np.cov(f, y)[0, 1])
    return min(1.0, max(0.0, covariance / ((1 + len(f) / others) * variance)))
