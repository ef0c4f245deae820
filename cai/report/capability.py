"""Tables of benchmark results by subject, and of their changes."""

from __future__ import annotations

from collections.abc import Sequence

from cai.artifacts import subjects_of
from cai.records import Score
from cai.report.formats import estimate_text
from cai.report.several_runs import PlainTable
from cai.report.table import UNKNOWN
from cai.statistics.benchmarks import SAMPLES, BenchmarkChange, BenchmarkResult

ARROWS = {True: " ↑", False: " ↓", None: ""}


def score_table(scores: Sequence[Score], results: Sequence[BenchmarkResult]) -> PlainTable:
    """A row for each metric, a column for each subject."""
    by_key = {(score.metric, score.subject): score for score in scores}
    better = {result.metric: result.higher_is_better for result in results}
    subjects = subjects_of(score.subject for score in scores)
    rows = [
        [
            metric + ARROWS[better[metric]],
            *(_cell(by_key.get((metric, subject))) for subject in subjects),
        ]
        for metric in better
    ]
    caption = "mean [95 % interval] n = samples; an arrow points to the better side"
    return PlainTable("Capability", ["metric", *subjects], rows, caption)


def change_table(changes: Sequence[BenchmarkChange]) -> PlainTable:
    """A row for each metric and pair of subjects, with where the interval comes from."""
    rows = [
        [
            change.score.metric.removesuffix(".change"),
            change.score.subject.replace("-", " − "),
            _cell(change.score, "+.3f"),
            _origin(change),
        ]
        for change in changes
    ]
    caption = (
        "the alignment tax: change [95 % interval] n. By samples, both models answered the same"
        " questions, paired; from standard errors, as if independent, which is mostly too wide"
    )
    return PlainTable("Changes", ["metric", "models", "change", "interval"], rows, caption)


def _cell(score: Score | None, form: str = ".3f") -> str:
    if score is None:
        return UNKNOWN
    text = estimate_text(score, form).replace("-", "−")
    return text + (f" ({score.unscored} unscored)" if score.unscored else "")


def _origin(change: BenchmarkChange) -> str:
    if change.basis == SAMPLES:
        return "paired by samples"
    if change.basis is None:
        return f"none: {change.reason}"
    return f"from standard errors: {change.reason}"
