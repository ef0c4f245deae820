"""Probabilities from log-odds."""

from __future__ import annotations

import math


def sigmoid(log_odds: float) -> float:
    """1 / (1 + e^-x), without overflow for any finite x."""
    if log_odds >= 0:
        return 1 / (1 + math.exp(-log_odds))
    return math.exp(log_odds) / (1 + math.exp(log_odds))


def log_sigmoid(log_odds: float) -> float:
    """log(sigmoid(x)), exact where the sigmoid itself is 0."""
    return min(log_odds, 0.0) - math.log1p(math.exp(-abs(log_odds)))
