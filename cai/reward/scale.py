"""The scale of rewards: mean 0 and variance 1 over a reference's replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cai.errors import StoreError
from cai.records import Chat


class ReplyScorer(Protocol):
    """What scores replies as part of a reward: a preference model of a run, or a published one."""

    def rows(self, chat: Chat, reply: str) -> list[int]:
        """Token ids of a chat and its reply."""
        ...

    def score_within_window(self, rows: Sequence[Sequence[int]]) -> list[float | None]:
        """Their rewards; None for a row that is longer than the model's window."""
        ...


def gain_and_bias(scores: Sequence[float], gain: float, bias: float) -> tuple[float, float]:
    """Gain and bias with which `scores` get mean 0 and variance 1 (arXiv:1909.08593, 2.1).

    Args:
        scores: as they are with the present `gain` and `bias`.

    Raises:
        StoreError: all scores are equal.
    """
    values = np.asarray(scores, dtype=np.float64)
    mean, std = float(values.mean()), float(values.std())
    if std == 0:
        raise StoreError(
            "the preference model gives every reply the same score: nothing to normalise"
        )
    return gain / std, (bias - mean) / std
