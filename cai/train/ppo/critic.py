"""The critic: a linear value head for each kind of prompt, on frozen hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cai.errors import ConfigError
from cai.modeling.fast_paths import backbone, hidden_width
from cai.modeling.loading import load_model, window_of
from cai.modeling.model_files import training_weights
from cai.modeling.precision import autocast, matmul_dtype
from cai.modeling.shared_prefix import shared_prefix_forward
from cai.modeling.tokenization import load_renderer
from cai.records import Kind
from cai.reward.preference_model import PreferenceModel

KINDS = (*get_args(Kind), None)
"""Kinds of prompts in the order of the critic's heads."""


def zero_head(hidden_size: int, device: torch.device | None = None) -> nn.Linear:
    """A head for each kind of prompt, which says 0 at first."""
    head = nn.Linear(hidden_size, len(KINDS), device=device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


class Critic(nn.Module):
    """V(state, kind of prompt): one linear head for each kind, at first the mean reward of the
    first update (`init_from_rewards`), on the reference policy's states.

    `init_from_preference_model` starts it as the preference model instead, on that model's states
    (arXiv:2203.02155 section 3.5), plus the mean of the reward's other parts.

    The value of a refusal depends on the kind of prompt, which no single head on the same states
    can express. The policy does not see the kind; a critic may know more than the actor, because
    only training needs it (asymmetric actor-critic, arXiv:1710.06542).
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.head = zero_head(hidden_size)
        self.backbone: Callable[[Tensor], Tensor] | None = None
        """(B, T) ids -> (B, T, hidden); None: the heads read the reference policy's states."""
        self.knows_preference_model = False
        """Whether the heads began as the preference model, and so expect its part of the reward."""

    @torch.no_grad()
    def init_from_rewards(
        self, kinds: Sequence[Kind | None], rewards: Sequence[float], scale: float = 1.0
    ) -> None:
        """Each kind's head predicts the mean reward of its prompts, besides what it predicts
        already; all of it in the units of the returns.

        A critic that begins at zero takes a reward that every response earns for a success of all.

        Args:
            rewards: of responses to prompts of these `kinds`; of a critic that began as the
                preference model, without the part that is that model's.
            scale: what rewards are multiplied by before they become returns.
        """
        self.head.weight.mul_(scale)
        self.head.bias.mul_(scale)
        for index, kind in enumerate(KINDS):
            known = [reward for of, reward in zip(kinds, rewards, strict=True) if of == kind]
            if known:
                self.head.bias[index] += scale * fmean(known)

    @torch.no_grad()
    def init_from_preference_model(self, model: PreferenceModel, weight: float = 1.0) -> None:
        """Read the preference model's states from now on; every head starts as that model's, times
        its `weight` in the reward.
        """
        self.head.weight.copy_(weight * model.gain * model.head.weight)
        self.head.bias.copy_(weight * (model.gain * model.head.bias + model.bias))
        self.backbone = model.hidden_states
        self.knows_preference_model = True

    def read_model(self, model: PreTrainedModel) -> None:
        """Read the states of a plain model from now on, which is frozen here. The heads begin at 0,
        in that model's width.
        """
        model.requires_grad_(False)
        self.head = zero_head(hidden_width(model), model.device)

        def states(ids_BT: Tensor) -> Tensor:
            with autocast(model.device):
                hidden_BTE = shared_prefix_forward(backbone(model), ids_BT)
            return hidden_BTE.float()

        self.backbone = states

    def forward(self, hidden_NE: Tensor, kind_N: Tensor) -> Tensor:
        """(N,) values, in units of the reward. `kind_N`: indices into KINDS."""
        value_NK: Tensor = self.head(hidden_NE)
        return value_NK.gather(1, kind_N[:, None]).squeeze(1)


def load_critic_model(spec: str, policy: str, window: int) -> PreTrainedModel:
    """The critic's own model.

    Args:
        policy: weights of the model that learns, whose tokens the critic reads.
        window: of that model, in tokens.

    Raises:
        ConfigError: its tokenizer is another, or its window is shorter than the policy's.
    """
    weights = training_weights(spec)
    tokens, policy_tokens = (
        load_renderer(folder).tokenizer.get_vocab() for folder in (weights, policy)
    )
    if tokens != policy_tokens:
        raise ConfigError(
            f"ppo.critic: {spec}: its tokens are not those of the model that learns: name a model"
            " of the same family"
        )
    model = load_model(weights, matmul_dtype())
    if window_of(model.config) < window:
        raise ConfigError(
            f"ppo.critic: {spec}: takes {window_of(model.config)} tokens, and the model that learns"
            f" takes {window}"
        )
    return model
