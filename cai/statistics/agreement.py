"""Agreement and calibration of labels: Krippendorff's alpha, reliability curve, ECE, entropy.

Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


def krippendorff(units: Sequence[Sequence[float]]) -> float | None:
    """Krippendorff's alpha for interval data (Krippendorff 2004, section 11.3).

    1 is perfect agreement, 0 is chance, below 0 is systematic disagreement.

        alpha = 1 - D_o / D_e      of squared differences

    D_o is over pairs within a unit of m values, weighted 1 / (m - 1); D_e over pairs of all values.

    Args:
        units: per unit, the values of its coders; units of fewer than two values are ignored.

    Returns:
        None when alpha is undefined: no unit of two values, or all values equal.
    """
    coded = [values for values in units if len(values) > 1]
    values = [value for unit in coded for value in unit]
    n = len(values)
    if n < 2:
        return None
    expected = _squared_differences(values) / (n * (n - 1))
    if expected == 0:
        return None
    observed = sum(_squared_differences(unit) / (len(unit) - 1) for unit in coded) / n
    return 1 - observed / expected


def _squared_differences(values: Sequence[float]) -> float:
    """Sum of squared differences over ordered pairs: 2 m * sum of squared deviations."""
    mean = sum(values) / len(values)
    return 2 * len(values) * sum((value - mean) ** 2 for value in values)


class Bin(NamedTuple):
    """One bin of a reliability curve."""

    predicted: float
    """Mean probability."""
    observed: float
    """Share of positive outcomes."""
    n: int


def reliability(
    probabilities: Sequence[float], outcomes: Sequence[float], bins: int = 10
) -> list[Bin]:
    """The non-empty ones of `bins` equal-width bins of [0, 1], in order.

    Args:
        outcomes: 0 or 1.
    """
    groups: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for p, outcome in zip(probabilities, outcomes, strict=True):
        groups[min(bins - 1, int(p * bins))].append((p, outcome))
    curve = []
    for group in groups:
        n = len(group)
        if n:
            predicted = sum(p for p, _ in group) / n
            observed = sum(outcome for _, outcome in group) / n
            curve.append(Bin(predicted, observed, n))
    return curve


def ece(probabilities: Sequence[float], outcomes: Sequence[float], bins: int = 10) -> float | None:
    """Expected calibration error (Naeini et al. 2015); None without rows.

    The gap between predicted and observed, averaged over bins with their counts as weights.
    P(first) = p and P(second) = 1 - p are the same prediction: pass that of the predicted side.
    """
    curve = reliability(probabilities, outcomes, bins)
    total = sum(b.n for b in curve)
    return sum(b.n * abs(b.predicted - b.observed) for b in curve) / total if total else None


def entropy(p: float) -> float:
    """Entropy in bits of a yes/no outcome of probability `p`: 1 at p = 1/2, 0 at 0 and 1."""
    return -sum(x * math.log2(x) for x in (p, 1 - p) if x > 0)
