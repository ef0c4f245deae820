"""Prompts on which nothing is learnt: how the policy does on them, and the best of its states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from cai.artifacts import VALIDATION_FILE
from cai.records import Prompt
from cai.seeds import derive
from cai.store import atomic_write
from cai.train.distributed import rank
from cai.train.ppo.balance import failure_rates, remaining_way
from cai.train.ppo.config import BalanceConfig
from cai.train.ppo.reward_table import ScoredRollouts
from cai.train.ppo.rollout import RolloutRequest


@dataclass
class Validation:
    """All validations of a run, and the policy's weights at the best of them."""

    weights: list[Tensor]
    """Of the policy, copied: those of the best validation so far."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row a validation: `updates` done, `reward`, `score`, and `failures.GROUP`."""

    @property
    def best(self) -> Mapping[str, Any]:
        """The row with the highest score; of equal ones the earliest."""
        return max(self.history, key=lambda row: row["score"])

    def record(
        self,
        updates: int,
        scored: ScoredRollouts,
        config: BalanceConfig,
        weights: Sequence[Tensor],
    ) -> dict[str, float]:
        """Add the row of a policy after `updates` updates, and keep its weights if it is the best.
        Returns the failure rates by group.

        With `config.targets` the score is minus the mean part of the way to them that is left; a
        group below its target counts as at it. Without targets it is the mean reward.
        """
        failures, reward = failure_rates(scored, config), fmean(scored.totals)
        score = reward
        if failures:
            start = {name: self._start(name, rate) for name, rate in failures.items()}
            left = remaining_way(failures, start, config.targets)
            score = -fmean(max(0.0, way) for way in left.values())
        rates = {f"failures.{name}": rate for name, rate in failures.items()}
        self.history.append({"updates": updates, "reward": reward, "score": score} | rates)
        if self.best is self.history[-1]:
            with torch.no_grad():
                for kept, weight in zip(self.weights, weights, strict=True):
                    kept.copy_(weight)
        return failures

    def _start(self, name: str, rate: float) -> float:
        return self.history[0].get(f"failures.{name}", rate) if self.history else rate

    def write(self, folder: Path) -> None:
        """Leave the rows in the policy's folder; the first process does."""
        if rank() == 0:
            lines = (json.dumps(row, allow_nan=False) + "\n" for row in self.history)
            atomic_write(folder / VALIDATION_FILE, "".join(lines))


def validation_requests(prompts: Sequence[Prompt], draws: int, seed: int) -> list[RolloutRequest]:
    """The responses of a validation, prompt by prompt: the same seeds every time, so that what
    differs between two validations is the policy.
    """
    return [
        RolloutRequest(prompt, derive(seed, "validation", prompt.id, draw))
        for prompt in prompts
        for draw in range(draws)
    ]
