"""Two constitutions on the same prompts: what their revisions do, with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cai.data.words import spaced_words
from cai.records import Grade, Prompt, Revision
from cai.report.table import UNKNOWN
from cai.statistics.estimates import estimate
from cai.statistics.paired import Difference, paired_difference

GradeFn = Callable[[Prompt, str], Grade]


class ComparedMetric(NamedTuple):
    """A mean of each side, and their difference on prompts that both have a value for."""

    metric: str
    n: int
    first: float | None
    second: float | None
    difference: Difference


def compare_revisions(
    prompts: Mapping[str, Prompt],
    first: Sequence[Revision],
    second: Sequence[Revision],
    grade: GradeFn,
) -> list[ComparedMetric]:
    """The metrics of two lists of revisions.

    `revision kept`: whether a filter let the final text through. `incorrect`, `refused` and `words`
    are of that text, graded by one rubric for both; a dropped row has none of them, and a row
    that the endpoint left unanswered has no value at all. `incorrect` needs the prompt's kind.

    Args:
        prompts: by id.
        first, second: rows of the same prompts, in any order.
    """
    by_key = {(row.source, row.draw): row for row in second}
    pairs = [(row, by_key[key]) for row in first if (key := (row.source, row.draw)) in by_key]
    sources = [row.source for row, _ in pairs]
    sides = [
        [_values(prompts[row.source], row, grade) for row in rows]
        for rows in zip(*pairs, strict=True)
    ]
    metrics: list[ComparedMetric] = []
    for metric in ("revision kept", "incorrect", "refused", "words"):
        a, b = ([values[metric] for values in side] for side in sides) if pairs else ([], [])
        mean_a, mean_b = (_mean(metric, values, sources) for values in (a, b))
        difference = paired_difference(a, b, sources)
        metrics.append(ComparedMetric(metric, difference.n, mean_a, mean_b, difference))
    return metrics


def _values(prompt: Prompt, row: Revision, grade: GradeFn) -> dict[str, float | None]:
    values: dict[str, float | None] = {
        "revision kept": float(row.final is not None),
        "incorrect": None,
        "refused": None,
        "words": None,
    }
    if row.dropped is not None and row.dropped.startswith("no answer"):
        return dict.fromkeys(values)
    if row.final is None:
        return values
    result = grade(prompt, row.final)
    values["words"] = float(len(spaced_words(row.final)))
    if result.correct is not None:
        values["incorrect"] = float(not result.correct)
    if result.degree is not None:
        values["refused"] = float(result.degree != "full_compliance")
    return values


def _mean(metric: str, values: Sequence[float | None], sources: Sequence[str]) -> float | None:
    return estimate(metric, "", values, sources).mean if values else None


def metric_cells(row: ComparedMetric) -> tuple[str, ...]:
    """A metric's cells: name, each side's mean, first − second with its interval, and n."""
    is_share = row.metric != "words"

    def cell(value: float | None, signed: bool = False) -> str:
        if value is None:
            return UNKNOWN
        sign = "+" if signed else ""
        return f"{100 * value:{sign}.0f}" if is_share else f"{value:{sign}.1f}"

    d = row.difference
    interval = f"{cell(d.mean, True)} [{cell(d.ci_low, True)}, {cell(d.ci_high, True)}]"
    unit = " (%)" if is_share else ""
    return f"{row.metric}{unit}", cell(row.first), cell(row.second), interval, str(row.n)
