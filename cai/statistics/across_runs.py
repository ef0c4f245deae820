"""The mean paired change over several runs of one recipe, with an interval over runs and prompts.

Pure arithmetic. Left out: which recipe is better. That takes runs of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from cai.seeds import derive
from cai.statistics.estimates import CONFIDENCE, Array

RESAMPLES = 2000


@dataclass(frozen=True)
class RunChange:
    """A metric's change from one subject to another in each run, and its mean over the runs."""

    metric: str
    subject: str
    """`policy-sft`: policy minus sft."""
    by_run: tuple[float | None, ...]
    """In the order of the runs; None: no pair of graded replies."""
    mean: float | None
    """Over the runs with a change, each of the same weight."""
    ci_low: float | None
    """None, like the other end, for fewer than two runs, and where nothing varies."""
    ci_high: float | None
    runs: int
    """Runs with a change."""
    n: int
    """Pairs of replies in them."""


def mean_change(
    metric: str, subject: str, gaps: Sequence[Mapping[str, Sequence[float]]], seed: int = 0
) -> RunChange:
    """The mean of the runs' mean gaps, with a 95 % interval from a two-level bootstrap.

    A resample draws runs with replacement, and prompts with replacement; a drawn prompt is drawn
    for every run that has it, as runs share their prompts. With R runs, the interval is

        mean ± t_{R−1} · √(R/(R−1)) · (standard deviation over resamples)

    A bootstrap of few runs is too narrow: its variance over runs is (R−1)/R of the unbiased one,
    and its percentiles do not know that R runs hardly tell their spread. The two factors mend that.

    It covers what another seed and other prompts of the same kind would change. It does not cover
    other settings, models, constitutions, graders, or prompts of another kind. The intervals of 2
    to 4 runs are wide: 2 runs say almost nothing about the spread between runs.

    Args:
        gaps: of each run, prompt -> its draws' differences, each from -1 to 1.
    """
    by_run = [_mean([gap for draws in run.values() for gap in draws]) for run in gaps]
    known = [run for run in gaps if run]
    means = [mean for mean in by_run if mean is not None]
    mean = _mean(means)
    low = high = None
    if mean is not None and len(known) > 1:
        deviation = float(_resampled_means(known, seed, f"{metric} {subject}").std(ddof=1))
        degrees = len(known) - 1
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * deviation
        half *= float(np.sqrt(len(known) / degrees))
        if half > 1e-12:
            low, high = max(-1.0, mean - half), min(1.0, mean + half)
    return RunChange(
        metric=metric,
        subject=subject,
        by_run=tuple(by_run),
        mean=mean,
        ci_low=low,
        ci_high=high,
        runs=len(known),
        n=sum(len(draws) for run in known for draws in run.values()),
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _resampled_means(
    runs: Sequence[Mapping[str, Sequence[float]]], seed: int, address: str
) -> Array:
    """The mean over runs, of each resample of runs and prompts."""
    prompts = sorted({prompt for run in runs for prompt in run})
    sums = np.array([[sum(run.get(prompt, ())) for prompt in prompts] for run in runs], dtype=float)
    counts = np.array([[len(run.get(prompt, ())) for prompt in prompts] for run in runs], float)
    rng = np.random.default_rng(derive(seed, "bootstrap", address))
    drawn_runs = rng.integers(len(runs), size=(RESAMPLES, len(runs)))
    # how often each prompt is drawn, rather than which: the same for all runs of a resample
    times = rng.multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), size=RESAMPLES)
    totals, sizes = times @ sums.T, times @ counts.T  # (resamples, runs)
    # a run none of whose prompts is drawn has no mean in that resample
    run_means = np.divide(totals, sizes, out=np.full(totals.shape, np.nan), where=sizes > 0)
    drawn = np.take_along_axis(run_means, drawn_runs, axis=1)
    means: Array = np.nanmean(drawn[~np.isnan(drawn).all(axis=1)], axis=1)
    return means
