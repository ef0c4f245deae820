"""Numbers with their intervals as text."""

from __future__ import annotations

from cai.records import Score


def interval(low: float | None, high: float | None, form: str) -> str:
    """`[low, high]`; a dash where one of them is unknown."""
    return "–" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"


def estimate_text(score: Score, form: str = ".3f") -> str:
    """`mean [low, high] n=…`; without the interval where it is unknown, a dash where the mean is."""
    if score.mean is None:
        return "–"
    bounds = "" if score.ci_low is None else f" {interval(score.ci_low, score.ci_high, form)}"
    return f"{score.mean:{form}}{bounds} n={score.n}"
