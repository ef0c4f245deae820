"""What learns in an update: clipped steps of policy and critic on an update's experience."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from typing import Any, TypeVar

import torch
from torch import Tensor

from cai.errors import TrainError
from cai.modeling.frozen_cache import FrozenCache
from cai.modeling.out_of_memory import with_smaller_batches
from cai.train.distributed import all_reduce_max, all_reduce_sum
from cai.train.ppo import steps
from cai.train.ppo.actor import Actor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.experience import (
    Experience,
    MicroBatch,
    Minibatch,
    micro_batch_size,
    micro_batches,
)
from cai.train.ppo.ptx import PtxText, ptx_losses, sample_texts
from cai.train.ppo.rollout import Rollout, response_logprobs
from cai.train.sharding import same_batches

Metrics = dict[str, Any]
T = TypeVar("T")


class Learner:
    """The optimizer of policy and critic, and the average of the policy's weights.

    Args:
        actor: its policy and critic learn, in place.
        config: see `PPOConfig`.
        seed: the drawn fine-tuning text follows from it.
    """

    def __init__(self, actor: Actor, config: PPOConfig, seed: int) -> None:
        self.actor, self.config, self.seed = actor, config, seed
        self.micro_batch_size = micro_batch_size(config, actor.policy.device)
        """Half of that, and so on, once memory ran out."""
        policy, critic = actor.trainable_parameters(), list(actor.critic.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": policy, "lr": config.optimization.learning_rate},
                {"params": critic, "lr": config.optimization.critic_learning_rate},
            ],
            eps=1e-5,
            weight_decay=0.0,
            # foreach=True copies all moments at once, which full fine-tuning has no memory for
            foreach=False,
        )
        self.ema_weights = (
            [p.detach().clone() for p in policy] if config.optimization.ema_decay else []
        )

    def optimize(
        self,
        experience: Experience,
        first_logp_N: Tensor | None = None,
        texts: Sequence[PtxText] = (),
    ) -> Metrics:
        """Clipped policy and value steps; metrics are means over minibatches.

        Args:
            first_logp_N: the first micro-batch's log-probabilities with their graph; None: they
                are computed again.
        """
        config, update = self.config.optimization, experience.update
        planned = config.num_ppo_epochs * len(experience.minibatches)
        taken: list[Metrics] = []
        for step in range(planned):
            policy_group = self.optimizer.param_groups[0]
            policy_group["lr"] = config.learning_rate * self._lr_warmup(update, step)
            minibatch = experience.minibatches[step % len(experience.minibatches)]
            batch = sample_texts(texts, self.config.ptx, self.seed, update, step)
            taken.append(self._train_minibatch(experience, minibatch, first_logp_N, batch))
            first_logp_N = None
            stop = self.config.kl.stop
            if stop is not None and taken[-1]["approx_kl"] > stop:
                break
        means = {key: fmean(row[key] for row in taken) for key in taken[0]}
        return means | {"steps_fraction": len(taken) / planned}

    def in_micro_batches(self, work: Callable[[int], T]) -> T:
        """`work` with the size of micro-batches; smaller ones from then on if memory runs out.

        Raises:
            TrainError: one rollout does not fit; or the weights are sharded, where all processes
                have to make the same passes.
        """
        if self.actor.sharded:
            with same_batches("ppo: out of memory: lower ppo.optimization.micro_batch_size"):
                return work(self.micro_batch_size)
        result, self.micro_batch_size = with_smaller_batches(
            "ppo", self.micro_batch_size, work, TrainError
        )
        return result

    def _train_minibatch(
        self,
        experience: Experience,
        minibatch: Minibatch,
        first_logp_N: Tensor | None,
        texts: list[Rollout],
    ) -> Metrics:
        """Gradients of a minibatch, accumulated over its micro-batches, and the step along them."""
        is_first_try = True

        def gradients(size: int) -> tuple[dict[str, float], float]:
            nonlocal is_first_try
            first = first_logp_N if is_first_try else None
            if not is_first_try and first_logp_N is not None:
                first_logp_N.detach_()  # lets its graph go, whoever else has the tensor
            is_first_try = False
            micros = minibatch.micro_batches
            if size != minibatch.micro_batch_size:
                micros = [
                    # nothing is recorded: that takes a pass without gradients
                    replace(micro, frozen_cache=FrozenCache([]))
                    for micro in micro_batches(
                        experience.rollouts, minibatch.indices, self.actor, self.config, size
                    )
                ]
            return self._accumulate(experience, micros, first, texts)

        sums, ratio_error = self.in_micro_batches(gradients)
        totals = torch.tensor(list(sums.values()), dtype=torch.float64)
        all_reduce_sum([totals])
        means = dict(zip(sums, totals.tolist(), strict=True)) | {
            "ratio_error": all_reduce_max(ratio_error)
        }
        # before the step: weights that are not finite would be saved over the last good ones
        steps.check_finite(means)
        return means | {"grad_norm": self._optimizer_step()}

    def _accumulate(
        self,
        experience: Experience,
        micros: Sequence[MicroBatch],
        first_logp_N: Tensor | None,
        texts: list[Rollout],
    ) -> tuple[dict[str, float], float]:
        """Gradients of all micro-batches and texts, from zero; the metrics' sums, and the largest
        error of a ratio.
        """
        self.optimizer.zero_grad()
        sums: defaultdict[str, float] = defaultdict(float)
        ratio_error = 0.0
        for micro in micros:
            logp_N = first_logp_N
            if logp_N is None:
                logp_N = self._logprobs(experience, micro)
            metrics, error = steps.micro_batch_gradients(
                self.actor, experience, micro, logp_N, self.config.optimization
            )
            for name, value in metrics.items():
                sums[name] += value
            ratio_error = max(ratio_error, error)
            first_logp_N = None
        if texts and self.trains_policy(experience.update):
            for loss in ptx_losses(self.actor.policy, texts, self.micro_batch_size):
                sums["ptx_loss"] += float(loss.detach())
                (self.config.ptx.coef * loss).backward()  # type: ignore[no-untyped-call]
        return sums, ratio_error

    def _logprobs(self, experience: Experience, micro: MicroBatch) -> Tensor:
        rollouts = [experience.rollouts[i] for i in micro.indices]
        with torch.set_grad_enabled(self.trains_policy(experience.update)):
            return response_logprobs(
                self.actor.policy, rollouts, micro.frozen_cache, self.config.rollout.temperature
            )

    def _optimizer_step(self) -> float:
        """Step along clipped gradients, and update the average; the norm before clipping."""
        config = self.config.optimization
        norm = steps.clip_and_step(self.actor, self.optimizer, config.max_grad_norm)
        if (decay := config.ema_decay) is not None:
            steps.update_ema(self.ema_weights, self.actor.trainable_parameters(), decay)
        return norm

    def trains_policy(self, update: int) -> bool:
        """Whether the policy learns in an update; in the first ones the critic learns alone."""
        return update >= self.config.optimization.critic_warmup_updates

    def _lr_warmup(self, update: int, step: int) -> float:
        config = self.config.optimization
        steps_per_update = config.num_ppo_epochs * config.num_minibatches
        policy_steps = (update - config.critic_warmup_updates) * steps_per_update + step
        return steps.lr_warmup_factor(policy_steps, config.lr_warmup_steps)

    def state_tensors(self) -> list[Tensor]:
        """All that a checkpoint has to hold besides the optimizer's state."""
        return [
            *self.actor.trainable_parameters(),
            *self.actor.critic.parameters(),
            *self.ema_weights,
        ]

    def use_ema_weights(self) -> None:
        """Give the policy its averaged weights, where there are any."""
        if self.ema_weights:
            self.set_weights(self.ema_weights)

    def set_weights(self, weights: Sequence[Tensor]) -> None:
        """Give the policy these weights."""
        for parameter, weight in zip(self.actor.trainable_parameters(), weights, strict=True):
            parameter.data.copy_(weight)

    @contextmanager
    def ema_weights_in_use(self) -> Iterator[list[Tensor]]:
        """The policy has its averaged weights within it, if there are any; yields its weights."""
        parameters = self.actor.trainable_parameters()
        last = [parameter.detach().clone() for parameter in parameters] if self.ema_weights else []
        self.use_ema_weights()
        try:
            yield [parameter.detach() for parameter in parameters]
        finally:
            if last:
                self.set_weights(last)
