"""Probabilities from log-odds."""

from __future__ import annotations

import math


def sigmoid(log_odds: float) -> float:
    """1 / (1 + e^-x), without overflow for any finite x."""
    return 1 / (1 + math.exp(-log_odds)) if log_odds >= 0 else math.exp(log_odds) / (1 + math.exp(log_odds))
