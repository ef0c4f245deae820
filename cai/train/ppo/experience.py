"""Experience: an update's rollouts with old log-probabilities, values, advantages and returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from cai.modeling.frozen_cache import FrozenCache
from cai.train import losses
from cai.train.distributed import local_micro_batches, local_share
from cai.train.ppo.actor import Actor
from cai.train.ppo.config import AdvantageConfig, PPOConfig
from cai.train.ppo.critic import KINDS, Critic
from cai.train.ppo.gather import gather_padded
from cai.train.ppo.reward_table import PREFERENCE_MODEL, ScoredRollouts
from cai.train.ppo.rollout import (
    Rollout,
    batched_logprobs,
    critic_states,
    padded,
    response_logprobs,
    token_kinds,
)
from cai.train.ppo.sampler_gap import sampler_gap


@dataclass(frozen=True)
class MicroBatch:
    """Rollouts of one forward pass.

    Later passes over the same rows in the same shape give the same numbers, so the first
    probability ratio is exactly 1.
    """

    indices: list[int]
    """Of rollouts."""
    loss_weight: float
    """Share of the minibatch's tokens that are in this micro-batch. Means times these weights sum
    to the minibatch's mean.
    """
    frozen_cache: FrozenCache
    """Outputs of the layers that do not learn."""


CPU_MICRO_BATCH, GPU_MICRO_BATCH = 16, 64


@dataclass(frozen=True)
class Minibatch:
    """Rollouts of one optimizer step."""

    indices: list[int]
    """Of the rollouts, over all processes."""
    micro_batches: list[MicroBatch]
    """This process's part."""
    micro_batch_size: int
    """Rollouts of a micro-batch, at most."""


@dataclass(frozen=True)
class ModelOutputs:
    """What the models give for an update's rollouts; dictionaries by index, this process's rollouts
    only.
    """

    logps: dict[int, Tensor]
    """(T,) old log-probabilities: of the policy that sampled."""
    ref_logps: dict[int, Tensor]
    states: dict[int, Tensor]
    """(T, hidden) that the critic reads."""
    values: dict[int, Tensor]
    first_logp_N: Tensor
    """(N,) the first micro-batch's log-probabilities with their graph. No optimizer step comes
    before it: it need not be run twice.
    """


def start_critic(
    critic: Critic, scored: ScoredRollouts, learnt: ScoredRollouts, *, scale_rewards: bool
) -> None:
    """Before the first update: values begin at the rewards, in the units of the returns.

    Args:
        scored: all responses of the update, whose mean rewards are what is expected.
        learnt: those that the update learns from, over whose tokens rewards are scaled. Where the
            policy starts as the reference, their only reward is that of the last token. The penalty
            for starting elsewhere (`reference: base`) is left to the critic to learn.
    """
    kinds = [rollout.prompt.kind for rollout in scored.known_rollouts]
    known = critic.knows_preference_model
    rewards = scored.totals_without(PREFERENCE_MODEL) if known else scored.totals
    scale = 1.0
    if scale_rewards:
        reward_N = torch.zeros(sum(len(r.response_ids) for r in learnt.known_rollouts))
        reward_N[: len(learnt.totals)] = torch.tensor(learnt.totals)
        scale = float(losses.inverse_std(reward_N))
    critic.init_from_rewards(kinds, rewards, scale)


@dataclass(frozen=True)
class RewardTerms:
    """What an update weighs rewards with."""

    kl_coef: float
    """Reward lost per nat from the reference."""
    weights: list[float] | None = None
    """Of each known rollout's advantages; None: 1."""


@dataclass(frozen=True)
class Experience:
    """Rollouts with everything that an update needs; lists have one tensor (T,) per rollout."""

    rollouts: list[Rollout]
    minibatches: list[Minibatch]
    logps: list[Tensor]
    """Old log-probabilities: of the policy that sampled (the behaviour policy)."""
    states: dict[int, Tensor]
    """(T, hidden) that the critic reads; this process's rollouts only."""
    values: list[Tensor]
    advantages: list[Tensor]
    returns: list[Tensor]
    ref_logps: list[Tensor]
    update: int = 0
    """Which update of the run it is for: texts and learning rate follow from it."""


def random_partition(count: int, num_minibatches: int, stream: Random) -> list[list[int]]:
    """A random partition of `count` rollouts into at most `num_minibatches` parts, all but the last
    of one size.
    """
    order = stream.sample(range(count), count)
    size = -(-count // num_minibatches)
    return [order[start : start + size] for start in range(0, count, size)]


def micro_batch_size(config: PPOConfig, device: torch.device) -> int:
    """Rollouts of a micro-batch, as the settings say or as the device suits.

    On a GPU launching the kernels of few rows takes longer than they run. A sharded model gets
    small ones: it cannot go on with fewer where memory runs out.
    """
    if config.optimization.micro_batch_size is not None:
        return config.optimization.micro_batch_size
    return GPU_MICRO_BATCH if device.type == "cuda" and not config.shard else CPU_MICRO_BATCH


def split_minibatches(
    rollouts: Sequence[Rollout],
    parts: Sequence[list[int]],
    actor: Actor,
    config: PPOConfig,
    size: int | None = None,
) -> list[Minibatch]:
    """Each part of the rollouts as a minibatch, with this process's share of it in micro-batches of
    like length.

    Args:
        size: of the micro-batches; None: as the settings say.
    """
    size = size or micro_batch_size(config, actor.policy.device)
    return [
        Minibatch(indices, micro_batches(rollouts, indices, actor, config, size), size)
        for indices in parts
    ]


def micro_batches(
    rollouts: Sequence[Rollout], indices: list[int], actor: Actor, config: PPOConfig, size: int
) -> list[MicroBatch]:
    """This process's share of a minibatch's rollouts, `size` of like length at a time."""
    lengths = [len(rollout.ids) for rollout in rollouts]
    num_tokens = sum(len(rollouts[i].response_ids) for i in indices)
    local = set(local_share(indices))
    batches = []
    for micro in local_micro_batches(indices, size, lengths):
        num_local_tokens = sum(len(rollouts[i].response_ids) for i in micro if i in local)
        frozen = FrozenCache(actor.frozen_layers(config.num_trainable_layers))
        batches.append(MicroBatch(micro, num_local_tokens / num_tokens, frozen))
    return batches


@torch.no_grad()
def forward_models(
    actor: Actor,
    rollouts: Sequence[Rollout],
    minibatches: Sequence[Minibatch],
    temperature: float,
    *,
    train_policy: bool,
) -> ModelOutputs:
    """Policy, reference and critic on every micro-batch of this process.

    Args:
        temperature: of sampling; log-probabilities are taken at it.
        train_policy: whether the first forward pass keeps its graph, or only the critic learns.
    """
    batches = [
        (micro.indices, micro.frozen_cache)
        for minibatch in minibatches
        for micro in minibatch.micro_batches
    ]
    ref_logps, states = batched_logprobs(actor.reference, rollouts, batches, temperature)
    if actor.critic.backbone is not None:
        states = critic_states(
            actor.critic.backbone, actor.reference, rollouts, [indices for indices, _ in batches]
        )
    logps, _ = batched_logprobs(actor.policy, rollouts, batches[1:], temperature)
    first, frozen = batches[0]
    first_rollouts = [rollouts[i] for i in first]
    with torch.set_grad_enabled(
        train_policy
    ):  # last, so that no other pass runs while its graph is kept
        first_logp_N = response_logprobs(actor.policy, first_rollouts, frozen, temperature)
    lengths = [len(rollout.response_ids) for rollout in first_rollouts]
    logps.update(zip(first, torch.split(first_logp_N.detach(), lengths), strict=True))
    values = {}
    for i, hidden_TE in states.items():
        values[i] = actor.critic(hidden_TE, token_kinds([rollouts[i]], hidden_TE.device))
    return ModelOutputs(logps, ref_logps, states, values, first_logp_N)


@torch.no_grad()
def make_experience(
    scored: ScoredRollouts,
    minibatches: list[Minibatch],
    outputs: ModelOutputs,
    config: AdvantageConfig,
    terms: RewardTerms,
) -> Experience:
    """KL penalty, advantages over the whole batch of all processes, and returns."""
    rollouts = scored.known_rollouts
    lengths = [len(rollout.response_ids) for rollout in rollouts]
    parts = [minibatch.indices for minibatch in minibatches]
    logp_BT = gather_padded(outputs.logps, parts, lengths)
    ref_logp_BT = gather_padded(outputs.ref_logps, parts, lengths)
    value_BT = gather_padded(outputs.values, parts, lengths)
    device = logp_BT.device
    mask_BT = padded([torch.ones(n, dtype=torch.bool, device=device) for n in lengths])

    total_B = torch.tensor(scored.totals, device=device)
    reward_BT = losses.token_rewards(total_B, logp_BT, ref_logp_BT, mask_BT, terms.kl_coef)
    if config.scale_rewards:
        reward_BT = losses.scale_by_std(reward_BT, mask_BT)
    returns = losses.gae(reward_BT, value_BT, mask_BT, gamma=1.0, lam=config.value_lam)
    return_BT = returns + value_BT
    if config.baseline == "group":
        prompt_B = torch.tensor(scored.prompt_indices, device=device)
        score_B = losses.leave_one_out(total_B, prompt_B)
        reward_BT = losses.token_rewards(score_B, logp_BT, ref_logp_BT, mask_BT, terms.kl_coef)
        advantage_BT = losses.gae(
            reward_BT, torch.zeros_like(value_BT), mask_BT, gamma=1.0, lam=1.0
        )
    else:
        advantage_BT = losses.gae(reward_BT, value_BT, mask_BT, gamma=1.0, lam=config.lam)
    kind_B = torch.tensor([KINDS.index(rollout.prompt.kind) for rollout in rollouts], device=device)
    advantage_BT = _normalized(advantage_BT, mask_BT, kind_B, config)
    if terms.weights is not None:
        advantage_BT = advantage_BT * torch.tensor(terms.weights, device=device)[:, None]

    def unpadded(x_BT: Tensor) -> list[Tensor]:
        return [x_BT[i, :n] for i, n in enumerate(lengths)]

    return Experience(
        rollouts,
        minibatches,
        logps=unpadded(logp_BT),
        states=outputs.states,
        values=unpadded(value_BT),
        advantages=unpadded(advantage_BT),
        returns=unpadded(return_BT),
        ref_logps=unpadded(ref_logp_BT),
    )


def _normalized(
    advantage_BT: Tensor, mask_BT: Tensor, kind_B: Tensor, config: AdvantageConfig
) -> Tensor:
    if config.center_by_kind:
        advantage_BT = losses.center_by_group(advantage_BT, mask_BT, kind_B)
    if config.scale_by_kind:
        advantage_BT = losses.scale_by_group(advantage_BT, mask_BT, kind_B)
    if config.whiten_advantages:
        advantage_BT = losses.whiten(advantage_BT, mask_BT)
    return advantage_BT


def experience_metrics(experience: Experience) -> dict[str, float | None]:
    """KL from the reference policy, how far the sampler was from the policy that learns, and how
    much of the returns the critic explained.

    `kl` and `kl_k3` are sums over a response's tokens, means over responses: nats a response.
    """
    logp_BT, ref_logp_BT = padded(experience.logps), padded(experience.ref_logps)
    lengths_B = torch.tensor([len(logp_T) for logp_T in experience.logps], device=logp_BT.device)
    mask_BT = torch.arange(logp_BT.shape[1], device=logp_BT.device) < lengths_B[:, None]
    value_N, return_N = torch.cat(experience.values), torch.cat(experience.returns)
    return {
        **losses.kl_metrics(logp_BT, ref_logp_BT, mask_BT),
        "sampler_gap": sampler_gap(experience.rollouts, experience.logps),
        "explained_variance": losses.explained_variance(value_N, return_N),
        "explained_variance_within_kinds": losses.explained_variance_within(
            value_N, return_N, token_kinds(experience.rollouts, return_N.device)
        ),
    }
