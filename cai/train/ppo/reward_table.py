"""The reward table of an update: computed, checked, summed, and described."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from cai.async_map import as_coroutine, run_sync
from cai.errors import TrainError, blame
from cai.train.ppo.rollout import RewardFn, RewardTable, Rollout

PREFERENCE_MODEL = "pm"
"""The part of the reward that is the preference model's, times its weight."""


@dataclass(frozen=True)
class ScoredRollouts:
    """An update's rollouts of all processes, with their rewards."""

    rollouts: list[Rollout]
    table: RewardTable
    known_indices: list[int]
    """Indices of the rollouts whose every part is known: the ones that are learnt from."""
    totals: list[float]
    """Their summed rewards; the KL penalty is not in them."""
    responses_per_prompt: int = 1
    """Rollouts are in the order of prompts: those of one prompt follow each other."""

    @property
    def known_rollouts(self) -> list[Rollout]:
        return [self.rollouts[i] for i in self.known_indices]

    @property
    def prompt_indices(self) -> list[int]:
        """Which of the update's prompts each known rollout answers."""
        return [i // self.responses_per_prompt for i in self.known_indices]

    def totals_without(self, part: str) -> list[float]:
        """The summed rewards of the known rollouts, less a part where there is one."""
        values = self.table.get(part, [0.0] * len(self.rollouts))
        return [
            total - (values[i] or 0.0)
            for i, total in zip(self.known_indices, self.totals, strict=True)
        ]

    def of_prompts(self, kept: Container[int]) -> ScoredRollouts:
        """The same, with the rollouts of these of the update's prompts as the known ones."""
        rows = zip(self.known_indices, self.totals, self.prompt_indices, strict=True)
        left = [(i, total) for i, total, prompt in rows if prompt in kept]
        return replace(
            self, known_indices=[i for i, _ in left], totals=[total for _, total in left]
        )


def compute_rewards(reward_fn: RewardFn, rollouts: list[Rollout]) -> RewardTable:
    """The table that `reward_fn` gives, awaited where it has to be.

    Raises:
        TrainError: a part has not one value (a finite number, or None) for each rollout.
    """
    with blame(TrainError, "ppo: the reward"):
        result = reward_fn(rollouts)
        table = run_sync(as_coroutine(result)) if inspect.isawaitable(result) else result
    for name, part in table.items():
        if len(part) != len(rollouts):
            raise TrainError(
                f"ppo: reward {name!r} has {len(part)} values for {len(rollouts)} rollouts"
            )
        if not all(value is None or math.isfinite(value) for value in part):
            raise TrainError(
                f"ppo: reward {name!r} is not a finite number somewhere: "
                "None stands for an unknown value"
            )
    return table


def add_missing_eos_penalty(
    table: RewardTable, rollouts: Sequence[Rollout], penalty: float
) -> RewardTable:
    """The table, with the penalty for responses that the model did not end as a part named
    `missing_eos`.
    """
    if not penalty:
        return table
    return table | {"missing_eos": [0.0 if rollout.finished else -penalty for rollout in rollouts]}


def sum_rewards(table: RewardTable) -> tuple[list[int], list[float]]:
    """(indices of the rollouts whose every part is known, their summed rewards).

    Raises:
        TrainError: there is none.
    """
    rows = list(zip(*table.values(), strict=True))
    known = {i: sum(map(float, row)) for i, row in enumerate(rows) if None not in row}
    if not known:
        raise TrainError("ppo: no rollout of this update has a known reward")
    return list(known), list(known.values())


def reward_metrics(scored: ScoredRollouts) -> dict[str, Any]:
    """Metrics of an update's rollouts.

    `reward`, its parts and `reward_by_kind.*` are means over the rollouts whose reward is known;
    `length` (tokens) and `eos_rate` over all of them; `unscored` counts the others.
    """
    rollouts, known, totals = scored.rollouts, scored.known_indices, scored.totals
    metrics: dict[str, Any] = {}
    for name, part in scored.table.items():
        metrics[f"reward.{name}"] = fmean(part[i] or 0.0 for i in known)
    metrics["reward"] = fmean(totals)
    metrics["length"] = fmean(len(rollout.response_ids) for rollout in rollouts)
    metrics["eos_rate"] = fmean(float(rollout.finished) for rollout in rollouts)
    metrics["episodes"] = len(known)
    metrics["unscored"] = len(rollouts) - len(known)
    kinds = [rollouts[i].prompt.kind for i in known]
    for kind in sorted({kind for kind in kinds if kind}):
        metrics[f"reward_by_kind.{kind}"] = fmean(
            x for x, of in zip(totals, kinds, strict=True) if of == kind
        )
    return metrics


def text_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Signs of a policy that says one thing to everything.

    `distinct_2`: different pairs of neighbouring words over all pairs; `top_response`: share of the
    commonest response.
    """
    texts = [rollout.text for rollout in rollouts]
    pairs = [pair for text in texts for pair in pairwise(text.split())]
    return {
        "distinct_2": len(set(pairs)) / max(1, len(pairs)),
        "top_response": Counter(texts).most_common(1)[0][1] / len(texts),
    }
