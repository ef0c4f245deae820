"""Text of numbers with their intervals, and of reasons."""

from __future__ import annotations

from cai.records import Score


def interval(low: float | None, high: float | None, form: str) -> str:
    """`[low, high]`; a dash when either end is unknown."""
    return "–" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"


def estimate_text(score: Score, form: str = ".3f") -> str:
    """`mean [low, high] n=…`, without an unknown interval; a dash for an unknown mean."""
    if score.mean is None:
        return "–"
    bounds = "" if score.ci_low is None else f" {interval(score.ci_low, score.ci_high, form)}"
    return f"{score.mean:{form}}{bounds} n={score.n}"


def shorten_reason(reason: str) -> str:
    """A null row's reason on one line of at most 100 characters."""
    text = " ".join(reason.split())
    return text if len(text) <= 100 else text[:99] + "…"
