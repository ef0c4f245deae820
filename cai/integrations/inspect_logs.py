"""Results in Inspect's logs, read through its Python API. Needs the package inspect_ai."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai.errors import StoreError, UsageError, blame
from cai.statistics.benchmarks import BenchmarkResult, is_mean_of

LOGS = "*.eval"
ERRORS = ("stderr", "bootstrap_stderr")
SPREADS = (*ERRORS, "std", "var", "ci", "ci_lower", "ci_upper")
"""Metrics that are about a mean, and no results of their own."""
Samples = dict[tuple[str, str], float | None]


@dataclass(frozen=True)
class InspectLog:
    """One log: the header, and the samples if there are any."""

    path: Path
    log: Any

    @property
    def model(self) -> str:
        """Model's folder where the log has one, else its name."""
        arguments = self.log.eval.model_args or {}
        return str(arguments.get("model_path") or self.log.eval.model)

    @property
    def problem(self) -> str | None:
        """Why the log has no results."""
        if self.log.status != "success":
            return f"{self.path}: its status is {self.log.status}: run it again"
        if self.log.results is None or not self.log.results.scores:
            return f"{self.path}: no scores in it: `inspect score` adds them"
        return None


def open_log(path: Path) -> InspectLog:
    """Read one log.

    Raises:
        UsageError: inspect_ai is not installed.
        StoreError: the log can't be read.
    """
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise UsageError(
            f"{path}: reading Inspect's logs needs inspect_ai: pip install 'cai[eval]'"
        ) from error
    with blame(StoreError, f"{path}: no log of Inspect"):
        return InspectLog(path, read_eval_log(str(path), exclude_fields={"events", "store"}))


def inspect_results(opened: InspectLog, subject: str) -> list[BenchmarkResult]:
    """Every metric of every scorer in a log that has results."""
    return [
        result
        for score in opened.log.results.scores
        for result in _scorer_results(opened, score, subject)
    ]


def _scorer_results(opened: InspectLog, score: Any, subject: str) -> Iterator[BenchmarkResult]:
    samples = _samples_of(opened.log, score)
    errors = {
        (metric.name if metric.group else name): metric.value
        for name, metric in score.metrics.items()
    }
    for name, metric in score.metrics.items():
        if metric.name in SPREADS or metric.name.endswith("_stderr"):
            continue
        mean = _finite(metric.value)
        scored = _group(opened.log, metric, samples)
        reason = None if mean is not None else f"{opened.path.name} has no number for {name}"
        if scored is not None and not is_mean_of(scored, mean):
            scored, reason = None, reason or f"{name} is not the mean of its samples"
        elif scored is None:
            reason = reason or f"no samples in {opened.path.name}"
        yield BenchmarkResult(
            metric=".".join(_distinct(["inspect", opened.log.eval.task, score.name, name])),
            subject=subject,
            mean=mean,
            stderr=_stderr(errors, metric),
            n=len(scored) if scored is not None else score.scored_samples or len(samples or ()),
            samples=scored,
            settings=_settings(opened.log),
            reason=reason,
        )


def _distinct(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _stderr(errors: dict[str, Any], metric: Any) -> float | None:
    """A grouped metric's error is `GROUP_stderr`; an error of the total is that of the mean."""
    if metric.group and f"{metric.name}_stderr" in errors:
        return _finite(errors[f"{metric.name}_stderr"])
    if metric.name not in ("accuracy", "mean"):
        return None
    return next((_finite(errors[name]) for name in ERRORS if name in errors), None)


def _samples_of(log: Any, score: Any) -> Samples | None:
    """(sample, epoch) -> its score; None where the log has no samples."""
    if not log.samples:
        return None
    from inspect_ai.scorer import value_to_float

    to_float = value_to_float()
    samples: Samples = {}
    for sample in log.samples:
        scores = sample.scores or {}
        scored = scores.get(score.name) or scores.get(score.scorer)
        value = scored.value if scored is not None else None
        if isinstance(value, dict):
            value = value.get(score.name)
        known = isinstance(value, str | int | float)
        samples[str(sample.id), str(sample.epoch)] = _finite(to_float(value)) if known else None
    return samples


def _group(log: Any, metric: Any, samples: Samples | None) -> Samples | None:
    """The samples of a grouped metric: those with its name as a value of their metadata."""
    if samples is None or not metric.group:
        return samples
    key = (metric.params or {}).get("group_key")
    if key is None:
        return samples
    of_group = {
        (str(sample.id), str(sample.epoch))
        for sample in log.samples
        if str((sample.metadata or {}).get(key)) == metric.name
    }
    return {name: value for name, value in samples.items() if name in of_group} or samples


def _settings(log: Any) -> dict[str, str]:
    arguments = {
        name: value for name, value in (log.eval.task_args or {}).items() if name != "data"
    }
    settings = {"task version": log.eval.task_version, "task arguments": arguments}
    return {name: str(value) for name, value in settings.items() if value not in (None, {}, "")}
