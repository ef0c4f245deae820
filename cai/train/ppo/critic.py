"""The critic: a linear value head for each kind of prompt, on frozen hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import get_args

import torch
from torch import Tensor, nn

from cai.records import Kind
from cai.reward.preference_model import PreferenceModel

KINDS = (*get_args(Kind), None)
"""Kinds of prompts in the order of the critic's heads."""


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
        self.head = nn.Linear(hidden_size, len(KINDS))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.backbone: Callable[[Tensor], Tensor] | None = None
        """(B, T) ids -> (B, T, hidden); None: the heads read the reference policy's states."""

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

    def forward(self, hidden_NE: Tensor, kind_N: Tensor) -> Tensor:
        """(N,) values, in units of the reward. `kind_N`: indices into KINDS."""
        value_NK: Tensor = self.head(hidden_NE)
        return value_NK.gather(1, kind_N[:, None]).squeeze(1)
