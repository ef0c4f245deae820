"""The reward table of an update: asked for, checked, summed, and told."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Sequence
from statistics import fmean
from typing import Any

from cai.errors import TrainError
from cai.train.ppo_config import PPOConfig
from cai.train.rollout import RewardTable, Rollout, Score


def scored(score: Score, rollouts: list[Rollout]) -> RewardTable:
    """What `score` makes of the rollouts, awaited where it has to be.

    Raises:
        TrainError: a part has not one value (a finite number, or None) for each rollout.
    """
    found = score(rollouts)
    table = asyncio.run(_awaited(found)) if inspect.isawaitable(found) else found
    for name, part in table.items():
        if len(part) != len(rollouts):
            raise TrainError(f"ppo: reward {name!r} has {len(part)} values for {len(rollouts)} rollouts")
        if not all(x is None or math.isfinite(x) for x in part):
            raise TrainError(f"ppo: reward {name!r} is not a finite number somewhere: None stands for what nobody knows")
    return table


async def _awaited(found: Awaitable[RewardTable]) -> RewardTable:
    return await found


def total(table: RewardTable, rollouts: Sequence[Rollout], config: PPOConfig) -> tuple[list[int], list[float]]:
    """(places of rollouts whose every part is known, their summed rewards less the missing-stop penalty)."""
    known = [i for i in range(len(rollouts)) if all(part[i] is not None for part in table.values())]
    if not known:
        raise TrainError("ppo: no rollout of this update has a known reward")
    sums = [sum(part[i] or 0.0 for part in table.values()) - config.missing_stop * (not rollouts[i].finished) for i in known]
    return known, sums


def describe(table: RewardTable, rollouts: Sequence[Rollout], known: Sequence[int], totals: Sequence[float]) -> dict[str, Any]:
    """Means over the rollouts of one update: the reward's parts by name, the reward by kind of prompt; how many went unscored."""
    kinds = [rollouts[i].prompt.kind for i in known]
    by_kind = {
        f"reward_on.{kind}": fmean(own for own, its in zip(totals, kinds, strict=True) if its == kind)
        for kind in sorted({kind for kind in kinds if kind})
    }
    parts = {
        f"reward.{name}": fmean(v for v in part if v is not None)
        for name, part in table.items()
        if any(v is not None for v in part)
    }
    return parts | {
        "reward": fmean(totals),
        "length": fmean(len(r.reply_ids) for r in rollouts),
        "finished": fmean(float(r.finished) for r in rollouts),
        "episodes": len(known),
        "unscored": len(rollouts) - len(known),
        **by_kind,
    }
