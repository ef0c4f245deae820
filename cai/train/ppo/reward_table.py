"""The reward table of an update: asked for, checked, summed, and told."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from typing import Any

from cai.errors import TrainError, blame
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.rollout import RewardFn, RewardTable, Rollout


def compute_rewards(score: RewardFn, rollouts: list[Rollout]) -> RewardTable:
    """What `score` makes of the rollouts, awaited where it has to be.

    Raises:
        TrainError: a part has not one value (a finite number, or None) for each rollout.
    """
    with blame(TrainError, "ppo: the reward"):
        found = score(rollouts)
        table = _finished(found) if inspect.isawaitable(found) else found
    for name, part in table.items():
        if len(part) != len(rollouts):
            raise TrainError(f"ppo: reward {name!r} has {len(part)} values for {len(rollouts)} rollouts")
        if not all(x is None or math.isfinite(x) for x in part):
            raise TrainError(f"ppo: reward {name!r} is not a finite number somewhere: None stands for what nobody knows")
    return table


def _finished(found: Awaitable[RewardTable]) -> RewardTable:
    """What is awaited, by a loop of its own: in a thread, as a notebook's loop may be running in this one."""

    async def wait() -> RewardTable:
        return await found

    with ThreadPoolExecutor(1) as aside:
        return aside.submit(asyncio.run, wait()).result()


def add_missing_eos_penalty(table: RewardTable, rollouts: Sequence[Rollout], config: PPOConfig) -> RewardTable:
    """The table, with what replies lose that did not end themselves as a part of its own."""
    if not config.missing_stop:
        return table
    return table | {"missing_stop": [0.0 if r.finished else -config.missing_stop for r in rollouts]}


def sum_rewards(table: RewardTable) -> tuple[list[int], list[float]]:
    """(places of rollouts whose every part is known, their summed rewards).

    Raises:
        TrainError: there is none.
    """
    rows = list(zip(*table.values(), strict=True))
    known = {i: sum(map(float, row)) for i, row in enumerate(rows) if None not in row}
    if not known:
        raise TrainError("ppo: no rollout of this update has a known reward")
    return list(known), list(known.values())


def reward_metrics(
    table: RewardTable, rollouts: Sequence[Rollout], known: Sequence[int], totals: Sequence[float]
) -> dict[str, Any]:
    """Means over the known rollouts of one update: the reward, its parts by name, the reward by kind of prompt; over all of them:
    length, and whether they ended by themselves; how many went unscored."""
    kinds = [rollouts[i].prompt.kind for i in known]
    by_kind = {
        f"reward_on.{kind}": fmean(own for own, its in zip(totals, kinds, strict=True) if its == kind)
        for kind in sorted({kind for kind in kinds if kind})
    }
    parts = {f"reward.{name}": fmean(part[i] or 0.0 for i in known) for name, part in table.items()}
    return parts | {
        "reward": fmean(totals),
        "length": fmean(len(r.reply_ids) for r in rollouts),
        "finished": fmean(float(r.finished) for r in rollouts),
        "episodes": len(known),
        "unscored": len(rollouts) - len(known),
        **by_kind,
    }
