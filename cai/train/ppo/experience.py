"""What each token of an update's replies was worth: log-probabilities, KL penalty, values, advantages, returns."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import Any

import torch
from torch import Tensor

from cai.modeling.frozen_cache import FrozenCache
from cai.train import losses
from cai.train.distributed import micro_batches
from cai.train.ppo.actor import KINDS, Actor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.gather import gather_padded
from cai.train.ppo.rollout import Rollout, batched_logprobs, critic_states, kinds_of, padded, response_logprobs


@dataclass(frozen=True)
class Experience:
    """Rollouts with everything the update needs; one tensor (T,) per rollout."""

    rollouts: list[Rollout]
    batches: list[list[int]]
    """The minibatches, as places of rollouts."""
    own: list[list[list[int]]]
    """Of each, this process's part, cut into what is read at once. So are old log-probabilities: the first ratio is exactly 1."""
    below: list[list[FrozenCache]]
    """What the blocks that don't learn make of each cut."""
    first: list[Tensor]
    """The first cut's log-probabilities (N,), still with their way back, where no step comes before it: it is not read twice."""
    logps: list[Tensor]
    states: dict[int, Tensor]
    """(T, hidden) that the critic reads, for the parts that are this process's own."""
    values: list[Tensor]
    advantages: list[Tensor]
    returns: list[Tensor]


def minibatches(count: int, config: PPOConfig, stream: Random) -> list[list[int]]:
    """A random partition of `count` rollouts into at most `config.minibatches` parts, all but the last of one size."""
    order = stream.sample(range(count), count)
    size = -(-count // config.minibatches)
    return [order[start : start + size] for start in range(0, count, size)]


@torch.no_grad()
def make_experience(
    actor: Actor,
    rollouts: list[Rollout],
    totals: list[float],
    batches: list[list[int]],
    pad: int,
    config: PPOConfig,
    *,
    beta: float,
    learns: bool = True,
) -> tuple[Experience, dict[str, Any]]:
    """Old log-probabilities, reference, values, KL penalty, advantages (standardised over the whole batch) and returns.

    Args:
        totals: each rollout's reward, the KL penalty not in it.
        batches: the minibatches, as places of rollouts.
        beta: reward lost per nat from the reference.
        learns: whether the policy will, and not the critic alone.
    """
    whole_lengths = [len(r.prompt_ids) + len(r.reply_ids) for r in rollouts]
    own = [micro_batches(batch, config.rows, whole_lengths) for batch in batches]
    below = [[FrozenCache(actor.frozen_layers(config.layers)) for _ in cuts] for cuts in own]
    every, lower = list(chain(*own)), list(chain(*below))
    refs, states = batched_logprobs(actor.reference, rollouts, every, lower, pad, config.temperature)
    if actor.critic.states is not None:
        states = critic_states(actor.critic.states, actor.reference, rollouts, every, pad)
    logps, _ = batched_logprobs(actor.policy, rollouts, every[1:], lower[1:], pad, config.temperature)
    with torch.set_grad_enabled(learns):  # last, so that nothing else is read while its way back is kept
        first_N = response_logprobs(actor.policy, [rollouts[i] for i in every[0]], lower[0], pad, config.temperature)
    logps |= zip(every[0], torch.split(first_N.detach(), [len(rollouts[i].reply_ids) for i in every[0]]), strict=True)
    values = {i: actor.critic(hidden_TE, kinds_of([rollouts[i]], hidden_TE.device)) for i, hidden_TE in states.items()}
    lengths = [len(r.reply_ids) for r in rollouts]
    logp_BT, ref_BT, value_BT = (gather_padded(rows, batches, lengths) for rows in (logps, refs, values))
    mask_BT = padded([torch.ones(n, dtype=torch.bool, device=logp_BT.device) for n in lengths])
    rewards_BT = losses.token_rewards(torch.tensor(totals, device=logp_BT.device), logp_BT, ref_BT, mask_BT, beta)
    if config.rescale:
        rewards_BT = losses.scale_by_std(rewards_BT, mask_BT)
    adv_BT = losses.gae(rewards_BT, value_BT, mask_BT, gamma=1.0, lam=config.lam)
    returns_BT = adv_BT + value_BT
    if config.centre:
        kind_B = torch.tensor([KINDS.index(rollout.prompt.kind) for rollout in rollouts], device=adv_BT.device)
        adv_BT = losses.center_by_group(adv_BT, mask_BT, kind_B)
    white_BT = losses.whiten(adv_BT, mask_BT) if config.whiten else adv_BT

    def rows(x_BT: Tensor) -> list[Tensor]:
        return [x_BT[i, :n] for i, n in enumerate(lengths)]

    told = _told(logp_BT, ref_BT, value_BT, returns_BT, mask_BT)
    parts = map(rows, (value_BT, white_BT, returns_BT))
    return Experience(rollouts, batches, own, below, [first_N], rows(logp_BT), states, *parts), told


def _told(logp_BT: Tensor, ref_BT: Tensor, value_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> dict[str, Any]:
    spread = float(returns_BT[mask_BT].var(unbiased=False))
    unexplained = float((returns_BT - value_BT)[mask_BT].var(unbiased=False))
    return {
        "kl": float((losses.k1(logp_BT, ref_BT) * mask_BT).sum(1).mean()),
        "kl_k3": float((losses.k3(logp_BT, ref_BT) * mask_BT).sum(1).mean()),
        "explained_variance": 1 - unexplained / spread if spread else None,  # equal returns leave nothing to explain
    }
