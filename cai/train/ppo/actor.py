"""What speaks and learns in PPO: policy and critic in one module, the reference beside them.

Two ways to hold them. `LoraActor`: one frozen base in memory; the policy is a LoRA adapter on it, the reference is the base with
adapters off. `FullActor`: every weight of the policy learns, and the reference is a second, frozen model.

Either samples from its own weights, or from a `copy` of them: one in a shorter format where drawing is faster in that, and one
in each process where the weights themselves are spread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, get_args

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from cai.modeling import shared_prefix
from cai.modeling.frozen_cache import frozen_blocks
from cai.modeling.lora import active_adapter, hidden_states, lm_head, merge_into, parameters_of
from cai.modeling.precision import autocast
from cai.records import Kind
from cai.reward.preference_model import ADAPTER, PreferenceModel
from cai.train.distributed import full_tensor, world_size

POLICY = "policy"
KINDS = (*get_args(Kind), None)
"""Of prompts, in the order of the critic's heads."""


class Critic(nn.Module):
    """V(state, kind): a linear head for each kind of prompt on frozen states, the reference's at first, and zero.

    Or the preference model's head for all kinds, on its states, from which they learn on (`init_from_preference_model`; arXiv:2203.02155 section 3.5).

    What a refusal is worth turns on the kind, and no one head on the same states can say both. The policy is not told the
    kind: a critic may know more than the actor, for only training needs it (asymmetric actor-critic, arXiv:1710.06542).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, len(KINDS))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.states: Callable[[Tensor], Tensor] | None = None
        """(B, T) ids -> (B, T, hidden), where it does not read the reference's."""

    @torch.no_grad()
    def init_from_preference_model(self, judge: PreferenceModel, weight: float = 1.0) -> None:
        """Read the preference model's states from now on, and begin as its head, times its `weight` in the reward."""
        self.head.weight.copy_(weight * judge.gain * judge.head.weight)
        self.head.bias.copy_(weight * (judge.gain * judge.head.bias + judge.bias))
        self.states = partial(hidden_states, judge.shared[0], ADAPTER)

    def forward(self, hidden_NE: Tensor, kind_N: Tensor) -> Tensor:
        """(N,) values; `kind_N`: places in KINDS."""
        value_NK: Tensor = self.head(hidden_NE)
        return value_NK.gather(1, kind_N[:, None]).squeeze(1)


@dataclass(frozen=True)
class ForwardModel:
    """One of the two that speak: policy or reference."""

    hidden: Callable[[Tensor], Tensor]
    """(B, T) ids -> (B, T, hidden). Rows are right-padded."""
    head: Callable[[Tensor], Tensor]
    """Hidden states -> logits."""
    device: torch.device


class Actor(Protocol):
    """What the loop asks of whoever learns."""

    critic: Critic
    sharded: bool
    """Whether the policy's weights are spread over processes, which then sum its gradients by themselves."""

    def rollout_model(self) -> AbstractContextManager[PreTrainedModel]:
        """Inside, a model to sample from, which speaks as the policy does now. Every process of a sharded policy enters."""
        ...

    @property
    def policy(self) -> ForwardModel: ...

    @property
    def reference(self) -> ForwardModel: ...

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The policy's weights, in a fixed order."""
        ...

    def frozen_layers(self, layers: int | None) -> list[nn.Module]:
        """Blocks that policy and reference share, below the last `layers`."""
        ...

    def copy_weights_to(self, target: PreTrainedModel) -> None:
        """Give a plain model the policy's weights. Of a sharded policy, every process must ask for it."""
        ...


class LoraActor(nn.Module):
    """The policy as an adapter named `policy` on a frozen base, which may carry other adapters too."""

    def __init__(self, model: PeftModel, copy: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.model, self.critic = model, Critic(int(model.config.hidden_size)).to(model.device)
        self.beside = (copy,)  # in a tuple: not a part of this module
        self.sharded = False

    @contextlib.contextmanager
    def rollout_model(self) -> Iterator[PreTrainedModel]:
        [copy] = self.beside
        if copy is None:
            with active_adapter(self.model, POLICY):
                yield self.model.get_base_model()
        else:
            self.copy_weights_to(copy)
            yield copy

    @property
    def policy(self) -> ForwardModel:
        return ForwardModel(partial(hidden_states, self.model, POLICY), lm_head(self.model), self.model.device)

    @property
    def reference(self) -> ForwardModel:
        return ForwardModel(partial(hidden_states, self.model, None), lm_head(self.model), self.model.device)

    def trainable_parameters(self) -> list[nn.Parameter]:
        return parameters_of(self.model, POLICY)

    def frozen_layers(self, layers: int | None) -> list[nn.Module]:
        return frozen_blocks(self.model.get_base_model(), layers)

    def copy_weights_to(self, target: PreTrainedModel) -> None:
        merge_into(target, self.model, POLICY)


class FullActor(nn.Module):
    """The policy as a model of its own, beside a frozen reference, which may carry a preference model's adapter.

    `layers`: only the policy's last so many blocks learn; None: every weight, the embeddings too.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel | PeftModel,
        copy: PreTrainedModel | None = None,
        layers: int | None = None,
    ) -> None:
        super().__init__()
        reference.requires_grad_(False)
        if layers is not None:
            model.requires_grad_(False)
            for block in blocks_of(model)[-layers:]:
                block.requires_grad_(True)
        self.model, self.critic = model, Critic(int(model.config.hidden_size)).to(model.device)
        self.beside = (reference, copy)
        self.sharded = False
        self._learnt = self._learning()

    def shard(self) -> None:
        """Spread policy, and a reference without adapters, over the processes, block by block (FSDP2).

        The root keeps its weights between passes, for the head reads the embeddings after the trunk's own forward is over.

        Raises:
            ValueError: there is no copy to sample from, which each process does at its own pace.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if self.beside[1] is None:
            raise ValueError("a policy that is spread over processes needs a copy to sample from: Whole(model, reference, copy)")
        mesh = init_device_mesh(self.model.device.type, (world_size(),))
        for model in (self.model, self.beside[0]):
            if isinstance(model, PreTrainedModel):
                for block in blocks_of(model):
                    fully_shard(block, mesh=mesh)
                fully_shard(model.base_model, mesh=mesh, reshard_after_forward=False)
                if _own_head(model):
                    fully_shard(model.get_output_embeddings(), mesh=mesh)
        self.sharded = True
        self._learnt = self._learning()

    @contextlib.contextmanager
    def rollout_model(self) -> Iterator[PreTrainedModel]:
        copy = self.beside[1]
        if copy is not None:
            self.copy_weights_to(copy)
        yield self.model if copy is None else copy

    @property
    def policy(self) -> ForwardModel:
        return _plain(self.model, share=not self.sharded)

    @property
    def reference(self) -> ForwardModel:
        model = self.beside[0]
        if isinstance(model, PeftModel):
            return ForwardModel(partial(hidden_states, model, None), lm_head(model), model.device)
        return _plain(model, share=not self.sharded)

    def trainable_parameters(self) -> list[nn.Parameter]:
        return self._learnt  # kept: while spread weights are gathered for a pass, the module shows others

    def _learning(self) -> list[nn.Parameter]:
        return [p for p in (*self.model.base_model.parameters(), *_own_head(self.model)) if p.requires_grad]

    def frozen_layers(self, layers: int | None) -> list[nn.Module]:
        return []  # two models: nothing is shared

    @torch.no_grad()
    def copy_weights_to(self, target: PreTrainedModel) -> None:
        weights = dict(target.named_parameters())
        for name, parameter in self.model.named_parameters():
            if name in weights:  # but for a tied head, which spreading has parted from the embeddings
                weights[name].copy_(full_tensor(parameter))


def blocks_of(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer's blocks, lowest first."""
    return frozen_blocks(model, 0)


def _plain(model: PreTrainedModel, *, share: bool) -> ForwardModel:
    """`share`: what rows begin with is computed once, which takes two passes of the trunk for one way back."""

    def hidden(ids_BT: Tensor) -> Tensor:
        with autocast(model.device):
            if share:
                return shared_prefix.shared_prefix_forward(model.base_model, ids_BT).to(model.dtype)
            found: Tensor = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        return found.to(model.dtype)

    return ForwardModel(hidden, _head(model), model.device)


def _head(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """Hidden states -> logits; tied weights are read where the trunk has them, for only those are gathered when spread."""
    if _own_head(model):
        return model.get_output_embeddings()  # type: ignore[no-any-return]
    return lambda hidden: nn.functional.linear(hidden, model.base_model.get_input_embeddings().weight)


def _own_head(model: PreTrainedModel) -> list[Any]:
    """The head's parameters, where they are not the embeddings'."""
    tied = {id(p) for p in model.base_model.parameters()} if not getattr(model.config, "tie_word_embeddings", False) else None
    return [] if tied is None else [p for p in model.get_output_embeddings().parameters() if id(p) not in tied]
