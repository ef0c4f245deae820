"""What the processes of one PPO run tell each other of an update: rollouts and rewards, and numbers for each token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cai.modeling.tokenization import Renderer
from cai.records import Prompt
from cai.train.distributed import all_gather_rows, rank, shard, world_size
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.rollout import RewardTable, Rollout


def gather_rollouts(
    own: list[Rollout], table: RewardTable, chosen: Sequence[Prompt], renderer: Renderer, config: PPOConfig
) -> tuple[list[Rollout], RewardTable]:
    """The rollouts and rewards of all processes, in the order of their prompts. An unknown reward stays unknown."""
    if world_size() == 1:
        return own, table
    order = [
        [i * config.replies + k for i in shard(range(len(chosen)), r) for k in range(config.replies)] for r in range(world_size())
    ]
    told = torch.zeros(len(own), config.max_tokens + 2, dtype=torch.int64)
    for row, rollout in zip(told, own, strict=True):
        ids = rollout.reply_ids
        row[:2], row[2 : 2 + len(ids)] = torch.tensor([len(ids), rollout.finished]), torch.tensor(ids)
    parts = torch.tensor([[math.nan if x is None else x for x in part] for part in table.values()], dtype=torch.float64)
    rewards = all_gather_rows(parts.reshape(len(table), len(own)).T.contiguous(), order).T.tolist()
    rollouts = []
    for place, (length, finished, *ids) in enumerate(all_gather_rows(told, order).tolist()):
        prompt, reply = chosen[place // config.replies], ids[:length]
        rollouts.append(Rollout(prompt, renderer.prompt_ids(prompt.chat), reply, renderer.text(reply), bool(finished)))
    return rollouts, {name: [None if math.isnan(x) else x for x in part] for name, part in zip(table, rewards, strict=True)}


def gather_padded(rows: dict[int, Tensor], batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> Tensor:
    """(B, T) of all processes' rows (T,), zeros after each row's end. Each process has those of its own parts of the batches."""
    places = [[i for batch in batches for i in shard(batch, r)] for r in range(world_size())]
    mine = places[rank()]
    own = torch.zeros(len(mine), max(lengths), device=next(iter(rows.values())).device)
    for row, i in zip(own, mine, strict=True):
        row[: lengths[i]] = rows[i]
    return all_gather_rows(own, places)
