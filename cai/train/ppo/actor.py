"""The actor: policy, reference policy and critic, as adapters on one base (`LoraActor`) or as whole
models (`FullActor`).

Either samples from its own weights, or from a copy of them: in a shorter number format where that
samples faster, or whole in each process where the policy's own weights are sharded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from cai.errors import TrainError
from cai.modeling.activation_checkpointing import checkpoint_blocks
from cai.modeling.fast_paths import hidden_width
from cai.modeling.frozen_cache import frozen_blocks
from cai.modeling.loading import load_frozen, load_model, window_of_weights
from cai.modeling.lora import (
    active_adapter,
    adapter_parameters,
    hidden_states,
    lm_head,
    merge_adapter_into,
    plain_hidden_states,
    with_adapter,
)
from cai.modeling.precision import matmul_dtype
from cai.modeling.tokenization import load_renderer
from cai.reward.preference_model import ADAPTER
from cai.train.distributed import world_size
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.critic import Critic, load_critic_model
from cai.train.preference import RewardConfig
from cai.train.sharding import (
    backbone_and_head_parameters,
    copy_weights,
    freeze_below,
    head_of,
    shard_model,
)

POLICY = "policy"
"""Name of the policy's adapter."""


@dataclass(frozen=True)
class ForwardModel:
    """Forward pass of the policy or of the reference policy, in two halves: states, then logits
    where they are needed.
    """

    backbone: Callable[[Tensor], Tensor]
    """(B, T) ids -> (B, T, hidden). Rows are right-padded."""
    lm_head: Callable[[Tensor], Tensor]
    """Hidden states -> logits."""
    device: torch.device


class PolicyAndCritic(nn.Module):
    """Everything that an optimizer may train, and nothing of the reference."""

    def __init__(self, model: nn.Module, critic: Critic) -> None:
        super().__init__()
        self.model, self.critic = model, critic


class Actor(Protocol):
    """What the trainer needs of an actor."""

    module: PolicyAndCritic
    sharded: bool
    """Whether FSDP holds the policy's weights, and reduces its gradients by itself."""

    @property
    def critic(self) -> Critic: ...

    @property
    def policy(self) -> ForwardModel: ...

    @property
    def reference(self) -> ForwardModel: ...

    def rollout_model(self) -> AbstractContextManager[PreTrainedModel]:
        """Inside, a model that samples as the policy does now. Every process of a sharded policy
        must enter.
        """
        ...

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The policy's, in a fixed order."""
        ...

    def frozen_layers(self, trainable: int | None) -> list[nn.Module]:
        """Blocks below the last `trainable`, where policy and reference share them."""
        ...

    def copy_weights_to(self, target: PreTrainedModel) -> None:
        """Give a plain model the policy's weights. All processes of a sharded policy call it."""
        ...


class LoraActor:
    """The policy as an adapter named `policy` on a frozen base.

    Args:
        model: the base with the policy's adapter; it may carry other adapters too.
        copy: a plain model to sample from; None: the adapter itself samples.
        reference_model: frozen here; None: the reference is the base without the adapter.
    """

    def __init__(
        self,
        model: PeftModel,
        copy: PreTrainedModel | None = None,
        reference_model: PreTrainedModel | None = None,
    ) -> None:
        if reference_model is not None:
            reference_model.requires_grad_(False)
        self.model, self.rollout_copy, self.reference_model = model, copy, reference_model
        self.module = PolicyAndCritic(model, Critic(hidden_width(model)).to(model.device))
        self.sharded = False

    @property
    def critic(self) -> Critic:
        return self.module.critic

    @property
    def policy(self) -> ForwardModel:
        return ForwardModel(
            partial(hidden_states, self.model, POLICY), lm_head(self.model), self.model.device
        )

    @property
    def reference(self) -> ForwardModel:
        if self.reference_model is not None:
            return _plain_forward(self.reference_model)
        return ForwardModel(
            partial(hidden_states, self.model, None), lm_head(self.model), self.model.device
        )

    @contextlib.contextmanager
    def rollout_model(self) -> Iterator[PreTrainedModel]:
        if self.rollout_copy is None:
            with active_adapter(self.model, POLICY):
                yield self.model.get_base_model()
        else:
            self.copy_weights_to(self.rollout_copy)
            yield self.rollout_copy

    def trainable_parameters(self) -> list[nn.Parameter]:
        return adapter_parameters(self.model, POLICY)

    def frozen_layers(self, trainable: int | None) -> list[nn.Module]:
        if self.reference_model is not None:
            return []  # the reference's blocks are others
        return frozen_blocks(self.model.get_base_model(), trainable)

    def copy_weights_to(self, target: PreTrainedModel) -> None:
        merge_adapter_into(target, self.model, POLICY)


class FullActor:
    """The policy as a model of its own, with a second, frozen model as the reference.

    Args:
        model: the policy.
        reference_model: frozen here; it may carry a preference model's adapter.
        copy: a plain model to sample from; a sharded policy needs one.
        num_trainable_layers: only the policy's last blocks learn; None: every weight, the
            embeddings too.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reference_model: PreTrainedModel | PeftModel,
        copy: PreTrainedModel | None = None,
        num_trainable_layers: int | None = None,
    ) -> None:
        reference_model.requires_grad_(False)
        freeze_below(model, num_trainable_layers)
        self.model, self.reference_model, self.rollout_copy = model, reference_model, copy
        self.module = PolicyAndCritic(model, Critic(hidden_width(model)).to(model.device))
        self.sharded = False
        self._trainable = backbone_and_head_parameters(self.model)

    def shard(self) -> None:
        """Shard policy, and a reference without adapters, over the processes, block by block
        (FSDP2).

        Raises:
            ValueError: there is no copy to sample from, which each process does at its own pace.
        """
        if self.rollout_copy is None:
            raise ValueError(
                "a sharded policy needs a copy to sample from: "
                "FullActor(model, reference_model, copy)"
            )
        for model in (self.model, self.reference_model):
            if isinstance(model, PreTrainedModel):
                shard_model(model)
        self.sharded = True
        self._trainable = backbone_and_head_parameters(self.model)

    @property
    def critic(self) -> Critic:
        return self.module.critic

    @property
    def policy(self) -> ForwardModel:
        return _plain_forward(self.model)

    @property
    def reference(self) -> ForwardModel:
        model = self.reference_model
        if isinstance(model, PeftModel):
            return ForwardModel(partial(hidden_states, model, None), lm_head(model), model.device)
        return _plain_forward(model)

    @contextlib.contextmanager
    def rollout_model(self) -> Iterator[PreTrainedModel]:
        if self.rollout_copy is not None:
            self.copy_weights_to(self.rollout_copy)
        yield self.model if self.rollout_copy is None else self.rollout_copy

    def trainable_parameters(self) -> list[nn.Parameter]:
        return (
            self._trainable
        )  # kept: while sharded weights are gathered for a pass, the module shows others

    def frozen_layers(self, trainable: int | None) -> list[nn.Module]:
        return []  # two models: nothing is shared

    def copy_weights_to(self, target: PreTrainedModel) -> None:
        copy_weights(self.model, target)


def build_actor(
    config: PPOConfig, weights: str, reward: RewardConfig | None, reference: str | None = None
) -> tuple[Actor, PeftModel | None]:
    """An actor on the fine-tuned model, with its critic's own model if the config names one; and
    the base on which a preference model finds or puts its adapter: always the fine-tuned model, on
    which that adapter was trained.

    Args:
        weights: folder of the fine-tuned model, where the policy starts.
        reward: shape of the preference model's adapter; None: the reward has no preference model.
        reference: another model as the reference; None: the fine-tuned model.

    Raises:
        TrainError: the reference has other tokens than the policy.
    """
    shard = config.shard and world_size() > 1  # a single process has nothing to shard
    # what is sharded must be of one format
    load_reference = load_model if shard else load_frozen
    other = None
    if reference is not None:
        _refuse_other_tokens(reference, weights)
        other = load_reference(reference)
    dtype = matmul_dtype()
    copy = load_model(weights, dtype) if shard or dtype != torch.float32 else None
    if config.mode == "lora":
        base = with_adapter(
            _learning_model(load_frozen, weights, config),
            POLICY,
            config.lora_rank,
            config.num_trainable_layers,
        )
        return _with_critic_model(LoraActor(base, copy, other), config, weights), base
    scorer = None
    if reward is not None:
        scorer = with_adapter(
            load_frozen(weights), ADAPTER, reward.lora_rank, reward.num_trainable_layers
        )
    frozen = other or scorer or load_reference(weights)
    policy = _learning_model(load_model, weights, config)
    actor = FullActor(policy, frozen, copy, config.num_trainable_layers)
    if shard:
        actor.shard()
    return _with_critic_model(actor, config, weights), scorer


def _learning_model(
    load: Callable[[str], PreTrainedModel], weights: str, config: PPOConfig
) -> PreTrainedModel:
    """The policy's model, or the base under its adapter."""
    model = load(weights)
    if config.gradient_checkpointing:
        checkpoint_blocks(model, config.num_trainable_layers)
    return model


def _with_critic_model(actor: Actor, config: PPOConfig, weights: str) -> Actor:
    if config.critic_model is not None:
        window = window_of_weights(weights)
        actor.critic.read_model(load_critic_model(config.critic_model, weights, window))
    return actor


def _refuse_other_tokens(reference: str, weights: str) -> None:
    """The reference must read the policy's tokens as the policy does."""
    if (
        load_renderer(reference).tokenizer.get_vocab()
        != load_renderer(weights).tokenizer.get_vocab()
    ):
        raise TrainError(
            f"ppo.reference: base: {reference} has other tokens than {weights}, so there is no KL "
            "between the two: take ppo.reference: sft"
        )


def _plain_forward(model: PreTrainedModel) -> ForwardModel:
    return ForwardModel(partial(plain_hidden_states, model), head_of(model), model.device)
