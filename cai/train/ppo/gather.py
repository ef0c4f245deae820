"""Collectives of a PPO update: rollouts with their rewards, and per-token numbers, of all
processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cai.modeling.tokenization import Renderer
from cai.records import Prompt
from cai.train.distributed import all_gather_rows, local_share, rank, world_size
from cai.train.ppo.config import RolloutConfig
from cai.train.ppo.rollout import RewardTable, Rollout


def gather_rollouts(
    local: list[Rollout],
    table: RewardTable,
    prompts: Sequence[Prompt],
    renderer: Renderer,
    config: RolloutConfig,
) -> tuple[list[Rollout], RewardTable]:
    """The rollouts and rewards of all processes, in the order of the update's prompts. An unknown
    reward stays unknown.

    Args:
        local: this process's rollouts, of its share of `prompts`.
    """
    if world_size() == 1:
        return local, table
    per_prompt = config.responses_per_prompt
    order = [
        rollout_indices(local_share(range(len(prompts)), r), per_prompt)
        for r in range(world_size())
    ]
    encoded = torch.zeros(len(local), config.max_new_tokens + 2, dtype=torch.int64)
    # NaN encodes None during the collective only
    logps_BT = torch.full((len(local), config.max_new_tokens), math.nan)
    for row, logps_T, rollout in zip(encoded, logps_BT, local, strict=True):
        length = len(rollout.response_ids)
        row[:2] = torch.tensor([length, rollout.finished])
        row[2 : 2 + length] = torch.tensor(rollout.response_ids)
        if rollout.sampler_logps is not None:
            logps_T[:length] = torch.tensor(rollout.sampler_logps)
    rows = zip(
        all_gather_rows(encoded, order).tolist(),
        all_gather_rows(logps_BT, order).tolist(),
        strict=True,
    )
    rollouts = []
    for i, ((length, finished, *ids), logps) in enumerate(rows):
        prompt, response_ids = prompts[i // per_prompt], ids[:length]
        rollouts.append(
            Rollout(
                prompt,
                renderer.prompt_ids(prompt.chat),
                response_ids,
                renderer.reply(response_ids).text,
                bool(finished),
                None if math.isnan(logps[0]) else logps[:length],
            )
        )
    return rollouts, _gather_table(table, len(local), order)


def rollout_indices(prompt_indices: Sequence[int], per_prompt: int) -> list[int]:
    """Indices of these prompts' rollouts, where those of prompt i begin at i * per_prompt."""
    return [i * per_prompt + k for i in prompt_indices for k in range(per_prompt)]


def _gather_table(table: RewardTable, count: int, order: Sequence[Sequence[int]]) -> RewardTable:
    """B rollouts, K parts of the reward. NaN encodes None during the collective only."""
    parts = torch.tensor(
        [[math.nan if value is None else value for value in part] for part in table.values()],
        dtype=torch.float64,
    )
    local_BK = parts.reshape(len(table), count).T.contiguous()
    gathered = all_gather_rows(local_BK, order).T.tolist()
    return {
        name: [None if math.isnan(value) else value for value in part]
        for name, part in zip(table, gathered, strict=True)
    }


def gather_padded(
    rows: dict[int, Tensor], minibatches: Sequence[Sequence[int]], lengths: Sequence[int]
) -> Tensor:
    """(B, T) of all processes' rows (T,), zeros after each row's end.

    Args:
        rows: by rollout, those of this process's share of every minibatch at least.
    """
    indices = [_shares(minibatches, r) for r in range(world_size())]
    local = indices[rank()]
    local_BT = torch.zeros(len(local), max(lengths), device=next(iter(rows.values())).device)
    for row, i in zip(local_BT, local, strict=True):
        row[: lengths[i]] = rows[i]
    return all_gather_rows(local_BT, indices)


def _shares(minibatches: Sequence[Sequence[int]], process: int) -> list[int]:
    return [i for minibatch in minibatches for i in local_share(minibatch, process)]
