"""Agreement and calibration of labels: with each other, with people, and of probabilities with what turned out. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


def krippendorff(units: Sequence[Sequence[float]]) -> float | None:
    """Alpha for interval data (Krippendorff 2004, section 11.3): 1 is perfect agreement, 0 chance, below 0 systematic dissent.

    alpha = 1 - D_o / D_e, with squared differences: D_o within units (a unit's pairs weighted 1 / (m - 1)), D_e over all values.

    Args:
        units: per unit, the values that its coders gave; units of fewer than two values say nothing.

    Returns:
        None when nothing can be said: no unit of two values, or all values equal.
    """
    told = [values for values in units if len(values) > 1]
    values = [value for unit in told for value in unit]
    n = len(values)
    if n < 2:
        return None
    expected = _squares(values) / (n * (n - 1))
    if expected == 0:
        return None
    observed = sum(_squares(unit) / (len(unit) - 1) for unit in told) / n
    return 1 - observed / expected


def _squares(values: Sequence[float]) -> float:
    """Sum of squared differences over ordered pairs: 2 (m * sum of squares - square of the sum)."""
    mean = sum(values) / len(values)
    return 2 * len(values) * sum((value - mean) ** 2 for value in values)


class Bin(NamedTuple):
    """One bin of a reliability curve."""

    predicted: float
    """Mean probability."""
    observed: float
    """Share that came true."""
    n: int


def reliability(
    probabilities: Sequence[float], outcomes: Sequence[float], bins: int = 10
) -> list[Bin]:
    """Equal-width bins that hold anything, from 0 to 1; outcomes are 0 or 1."""
    groups: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for p, outcome in zip(probabilities, outcomes, strict=True):
        groups[min(bins - 1, int(p * bins))].append((p, outcome))
    return [
        Bin(sum(p for p, _ in g) / len(g), sum(o for _, o in g) / len(g), len(g))
        for g in groups
        if g
    ]


def ece(probabilities: Sequence[float], outcomes: Sequence[float], bins: int = 10) -> float | None:
    """Expected calibration error (Naeini et al. 2015): mean gap of predicted and observed, weighted by bin; None without rows.

    A pair may be shown in either order, so P(first) = p says the same as P(second) = 1 - p: give the side that was predicted.
    """
    found = reliability(probabilities, outcomes, bins)
    total = sum(b.n for b in found)
    return sum(b.n * abs(b.predicted - b.observed) for b in found) / total if total else None


def entropy(p: float) -> float:
    """Of a yes/no question, in bits: 1 where nobody knows, 0 where the answer is certain."""
    return -sum(x * math.log2(x) for x in (p, 1 - p) if x > 0)
