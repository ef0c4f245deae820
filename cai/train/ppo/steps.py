"""Gradients of a micro-batch, and an optimizer step along those of a minibatch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cai.errors import TrainError
from cai.train import losses
from cai.train.distributed import all_reduce_sum, full_tensor
from cai.train.ppo.actor import Actor
from cai.train.ppo.config import OptimizationConfig
from cai.train.ppo.experience import Experience, MicroBatch
from cai.train.ppo.rollout import token_kinds


def micro_batch_gradients(
    actor: Actor,
    experience: Experience,
    micro: MicroBatch,
    logp_N: Tensor,
    config: OptimizationConfig,
) -> tuple[dict[str, float], float]:
    """Accumulate the gradients of a micro-batch's policy and value losses.

    Args:
        logp_N: log-probabilities under the policy now; without gradients where only the critic
            learns.

    Returns:
        Its part of the minibatch's metrics, and its largest error of a probability ratio.
    """
    old_logp_N, old_value_N, advantage_N, return_N = (
        torch.cat([rows[i] for i in micro.indices])
        for rows in (experience.logps, experience.values, experience.advantages, experience.returns)
    )
    policy_loss = micro.loss_weight * losses.policy_loss(
        logp_N, old_logp_N, advantage_N, config.clip_range
    )
    state_NE = torch.cat([experience.states[i] for i in micro.indices])
    kind_N = token_kinds([experience.rollouts[i] for i in micro.indices], state_NE.device)
    value_N = actor.critic(state_NE, kind_N)
    value_loss = micro.loss_weight * losses.value_loss(
        value_N, old_value_N, return_N, config.value_clip_range
    )
    # policy and critic share no parameter: no coefficient stands between the two losses
    value_loss.backward()  # type: ignore[no-untyped-call]
    if logp_N.requires_grad:
        policy_loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        error_N = ((logp_N - old_logp_N).exp() - 1).abs()
        clipped_N = (error_N > config.clip_range).float()
        metrics = {
            "policy_loss": float(policy_loss),
            "value_loss": float(value_loss),
            "clip_fraction": micro.loss_weight * float(clipped_N.mean()),
            "approx_kl": micro.loss_weight * float(0.5 * ((logp_N - old_logp_N) ** 2).mean()),
            "neg_logp": micro.loss_weight * float(-logp_N.mean()),
        }
    return metrics, float(error_N.max())


def clip_and_step(actor: Actor, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> float:
    """Sum gradients over processes, clip those of policy and critic each by itself, and step.

    Returns:
        The norm of the policy's gradients before clipping.

    Raises:
        TrainError: a gradient is not finite.
    """
    policy, critic = actor.trainable_parameters(), list(actor.critic.parameters())
    replicated = critic if actor.sharded else [*critic, *policy]
    all_reduce_sum([p.grad for p in replicated if p.grad is not None])
    norm = float(full_tensor(nn.utils.clip_grad_norm_(policy, max_grad_norm)))
    critic_norm = float(nn.utils.clip_grad_norm_(critic, max_grad_norm))
    check_finite({"grad_norm": norm, "the critic's grad_norm": critic_norm})
    optimizer.step()
    return norm


@torch.no_grad()
def update_ema(average: Sequence[Tensor], parameters: Sequence[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * parameter, in place."""
    for mean, parameter in zip(average, parameters, strict=True):
        mean.lerp_(parameter, 1 - decay)


def lr_warmup_factor(step: int, warmup_steps: int) -> float:
    """The policy's learning rate at a step, as a share: from a tenth to all of it (arXiv:2203.02155
    appendix C.4).
    """
    if step >= warmup_steps or not warmup_steps:
        return 1.0
    return 0.1 + 0.9 * max(0, step) / warmup_steps


def check_finite(metrics: Mapping[str, float | None]) -> None:
    """Nothing, if every known value is finite.

    Raises:
        TrainError: names the one that is not.
    """
    for name, value in metrics.items():
        if value is not None and not math.isfinite(value):
            raise TrainError(
                f"ppo: {name} is {value}; lower ppo.optimization.learning_rate,"
                " and run again from the last checkpoint"
            )
