"""Changes of benchmark results from one subject to another: the alignment tax. Pure arithmetic.

The benchmarks are run by other tools; their readers give `BenchmarkResult`s. Samples are paired
where both subjects have them. Without samples the interval comes from the two standard errors: it
treats the subjects as independent, and so is mostly too wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from scipy import stats

from cai.artifacts import COMPARISONS
from cai.records import Score
from cai.statistics.estimates import CONFIDENCE, estimate, score_row
from cai.statistics.paired import paired_difference

Basis = Literal["samples", "standard errors"]
SAMPLES: Basis = "samples"
STANDARD_ERRORS: Basis = "standard errors"
TOLERANCE = 1e-3
"""Difference of the samples' mean from the reported value, from which the metric is something else
than their mean. Tools round, by less than this."""


@dataclass(frozen=True)
class BenchmarkResult:
    """One metric of one benchmark for one subject."""

    metric: str
    """`lm_eval.arc_easy.acc`, or `inspect.TASK.SCORER.METRIC`."""
    subject: str
    mean: float | None
    stderr: float | None
    n: int
    samples: Mapping[tuple[str, str], float | None] | None = None
    """(sample, epoch) -> its score; None: the tool kept none, or the metric is not their mean."""
    higher_is_better: bool | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    """What must be the same for two results to be comparable, by name."""
    reason: str | None = None
    """Why a mean or samples are missing."""


@dataclass(frozen=True)
class BenchmarkChange:
    """A metric's change from one subject to another."""

    score: Score
    """Of metric `METRIC.change` and subject `policy-base`: policy minus base."""
    basis: Basis | None
    """Where the interval comes from; None: there is none."""
    reason: str | None
    """Why there is no change or no interval, or why it is not by samples."""


def is_mean_of(samples: Mapping[tuple[str, str], float | None], mean: float | None) -> bool:
    """Whether a reported value is the mean of the known samples, up to rounding."""
    known = [value for value in samples.values() if value is not None]
    if not known or mean is None:
        return False
    return abs(sum(known) / len(known) - mean) <= TOLERANCE * max(1.0, abs(mean))


def benchmark_scores(results: Sequence[BenchmarkResult]) -> list[Score]:
    """A row for each result. Intervals are over samples where there are any, else normal ones."""
    return [_score(result) for result in results]


def _score(result: BenchmarkResult) -> Score:
    if result.samples is not None:
        names = [name for name, _ in result.samples]
        return estimate(result.metric, result.subject, list(result.samples.values()), names)
    ends = _normal_interval(result.mean, result.stderr)
    name = result.metric, result.subject
    return score_row(name, result.mean, (result.stderr, *ends), n=result.n)


def _normal_interval(mean: float | None, stderr: float | None) -> tuple[float | None, float | None]:
    if mean is None or stderr is None:
        return None, None
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * stderr
    return mean - half, mean + half


def benchmark_changes(results: Sequence[BenchmarkResult]) -> list[BenchmarkChange]:
    """SFT minus base, policy minus base and policy minus SFT, of every metric that both have."""
    by_metric: dict[str, dict[str, BenchmarkResult]] = {}
    for result in results:
        by_metric.setdefault(result.metric, {})[result.subject] = result
    return [
        _change(subjects[left], subjects[right])
        for subjects in by_metric.values()
        for left, right in COMPARISONS
        if left in subjects and right in subjects
    ]


def _change(left: BenchmarkResult, right: BenchmarkResult) -> BenchmarkChange:
    names = f"{left.metric}.change", f"{left.subject}-{right.subject}"
    differing = [
        f"{name} ({right.settings.get(name, 'none')}, {left.settings.get(name, 'none')})"
        for name in {**right.settings, **left.settings}
        if right.settings.get(name) != left.settings.get(name)
    ]
    if differing:
        reason = f"not comparable: they differ in {', '.join(differing)}"
        return BenchmarkChange(score_row(names, None, n=0), None, reason)
    missing = [side for side in (right, left) if side.mean is None]
    if missing:
        reason = f"{missing[0].subject}: {missing[0].reason or 'no value'}"
        return BenchmarkChange(score_row(names, None, n=0), None, reason)
    if left.samples is not None and right.samples is not None:
        return _paired_change(names, left.samples, right.samples)
    return _unpaired_change(names, left, right)


def _paired_change(
    names: tuple[str, str],
    left: Mapping[tuple[str, str], float | None],
    right: Mapping[tuple[str, str], float | None],
) -> BenchmarkChange:
    keys = sorted(left.keys() | right.keys())
    d = paired_difference(
        [left.get(key) for key in keys],
        [right.get(key) for key in keys],
        [name for name, _ in keys],
    )
    row = score_row(names, d.mean, (d.stderr, d.ci_low, d.ci_high), n=d.n, unscored=d.unscored)
    if d.mean is None:
        return BenchmarkChange(row, None, "no sample that both have scores of")
    if d.ci_low is None:
        reason = "fewer than two samples" if d.stderr is None else "all samples differ alike"
        return BenchmarkChange(row, None, reason)
    return BenchmarkChange(row, SAMPLES, None)


def _unpaired_change(
    names: tuple[str, str], left: BenchmarkResult, right: BenchmarkResult
) -> BenchmarkChange:
    if left.mean is None or right.mean is None:
        raise ValueError("both means must be known")
    gap = left.mean - right.mean
    reason = next(
        f"{side.subject}: {side.reason or 'no samples'}"
        for side in (right, left)
        if side.samples is None
    )
    n = min(left.n, right.n)
    if left.stderr is None or right.stderr is None:
        unknown = right.subject if right.stderr is None else left.subject
        row = score_row(names, gap, n=n)
        return BenchmarkChange(row, None, f"{reason}, and no standard error of {unknown}")
    stderr = math.hypot(left.stderr, right.stderr)
    row = score_row(names, gap, (stderr, *_normal_interval(gap, stderr)), n=n)
    return BenchmarkChange(row, STANDARD_ERRORS, reason)
