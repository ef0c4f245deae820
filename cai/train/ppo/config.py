"""What PPO may vary."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cai.records import FrozenModel
from cai.train.ppo.prompt_sampler import Share, allocate


class KLConfig(FrozenModel):
    """How far the policy may go from the reference."""

    coef: float = Field(0.05, ge=0)
    """Reward lost per nat: the fixed weight, or the adaptive controller's first."""
    target: float | None = Field(None, gt=0)
    """Nats per reply that the adaptive controller steers to; None: the weight stays fixed."""
    horizon: int = Field(2000, ge=1)
    """Episodes in which the controller may move by a factor of about e^0.2."""
    stop: float | None = Field(None, gt=0)
    """An update ends once a minibatch is so many nats a token (estimated) from the policy that sampled; None: never early."""

    @model_validator(mode="after")
    def _something_to_steer(self) -> KLConfig:
        if self.target is not None and not self.coef:
            raise ValueError("coef = 0 stays 0 whatever the controller multiplies it by; give the weight to begin with")
        return self


class PtxConfig(FrozenModel):
    """Pretraining gradients mixed into each step (PPO-ptx, arXiv:2203.02155 section 3.5)."""

    coef: float = Field(0.0, ge=0)
    """Weight of the mean log loss on the fine-tuning text; 0: none of it is read."""
    batch: int = Field(8, ge=1)
    """Texts per step."""


PRESETS: dict[str, dict[str, Any]] = {
    "instructgpt": {
        "mode": "full",
        "critic": "reward",
        "updates": 500,
        "prompts": 512,
        "replies": 1,
        "temperature": 1.0,
        "learning_rate": 9e-6,
        "critic_learning_rate": 9e-6,
        "minibatches": 8,
        "warmup": 80,
        "ema": 0.992,
        "ptx": {"coef": 27.8, "batch": 512},
        "kl": {"coef": 0.02},
    },
    "cai": {"replies": 1, "temperature": 1.0, "kl": {"coef": 0.001}},
}
"""Published recipes by name: arXiv:2203.02155 section 3.5 and appendix C (256,000 episodes, 512 an update in eight minibatches,
eight fine-tuning texts an episode), for models of a billion weights and more; and arXiv:2212.08073, which tells little beyond the
reward, that of arXiv:2204.05862: the preference model's less 0.001 of the KL. What a run says beside the name counts more.

Other than in the papers: the critic is linear heads on the preference model's frozen states, not a network of its own that learns
whole; Adam's second decay is 0.999, not 0.95; and the longest reply is whatever `max_tokens` says."""


class PPOConfig(FrozenModel):
    """What PPO may vary. Derived sizes are properties."""

    preset: Literal["instructgpt", "cai"] | None = None
    """A published recipe; the keys below change it."""
    updates: int = Field(8, ge=0)
    prompts: int = Field(16, ge=1)
    """Prompts per update."""
    shares: dict[Share, Annotated[float, Field(gt=0)]] | None = None
    """Relative share of each kind among them, or of a category of one (`benign/borderline`); None: as they come.

    A kind stands for all its categories but those that have a share of their own.
    """
    replies: int = Field(4, ge=1)
    """Replies per prompt."""
    max_tokens: int = Field(48, ge=1)
    """Of a reply."""
    temperature: float = Field(0.7, gt=0)
    """Of sampling; log-probabilities of policy and reference are taken at it."""
    mode: Literal["lora", "full"] = "lora"
    """Adapters on one frozen base, or every weight, beside a second model as the reference."""
    shard: bool = False
    """With `full` and several processes: weights, gradients and moments are spread over them (FSDP2)."""
    rank: int = Field(16, ge=1)
    """Of the adapter."""
    layers: int | None = Field(None, ge=1)
    """Only the model's last so many blocks learn, which makes an update cheaper; None: all."""
    critic: Literal["reference", "reward"] = "reference"
    """What the critic is a head on: the reference's states, from nothing; or the preference model's, from its head."""
    learning_rate: float = Field(3e-4, gt=0)
    critic_learning_rate: float = Field(2e-3, gt=0)
    epochs: int = Field(1, ge=1)
    """Passes over an update's rollouts."""
    minibatches: int = Field(4, ge=1)
    rows: int = Field(16, ge=1)
    """Replies read at once while learning: what a step holds in memory. Larger minibatches are read in parts that add up."""
    clip: float = Field(0.2, gt=0)
    """Of the probability ratio, and of the critic's step in units of the reward."""
    lam: float = Field(0.95, ge=0, le=1)
    """GAE's trade of bias for variance; rewards are not discounted."""
    missing_stop: float = Field(0.0, ge=0)
    """Reward lost by a reply that the model did not end itself."""
    max_grad_norm: float = Field(1.0, gt=0)
    centre: bool = False
    """Take the mean advantage of its kind of prompt off each advantage first. Before the critic knows what each kind is worth,
    right replies to a kind whose best reward is low are pushed away from otherwise."""
    whiten: bool = True
    """Standardise advantages over the whole update."""
    rescale: bool = False
    """Divide the tokens' rewards, KL penalty included, by their standard deviation over the whole update."""
    warmup: int = Field(0, ge=0)
    """The policy's first optimiser steps, in which its learning rate rises from a tenth."""
    critic_warmup: int = Field(0, ge=0)
    """Updates in which only the critic learns."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay per step of the average of the policy's weights that is kept in the end; None: the last weights are."""
    save_every: int = Field(1, ge=1)
    """Updates between checkpoints: what a kill costs at most. The state of full fine-tuning is three times the model's size."""
    ptx: PtxConfig = PtxConfig()
    kl: KLConfig = KLConfig()

    @property
    def episodes(self) -> int:
        """Replies per update."""
        return self.prompts * self.replies

    @model_validator(mode="before")
    @classmethod
    def _by_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        name = data.get("preset")
        recipe = dict(PRESETS.get(name, {})) if isinstance(name, str) else {}
        for key in ("kl", "ptx"):  # what a run says of one of their keys leaves the others as in the recipe
            if isinstance(recipe.get(key), dict) and isinstance(data.get(key), dict):
                recipe[key] = recipe[key] | data[key]
                data = {k: v for k, v in data.items() if k != key}
        return recipe | data

    @model_validator(mode="after")
    def _whole_minibatches(self) -> PPOConfig:
        if self.kl.target is not None and 0.2 * self.episodes >= self.kl.horizon:
            raise ValueError(
                f"kl.horizon = {self.kl.horizon}: an update of {self.episodes} replies could move the weight by all of itself;"
                f" give more than {self.episodes // 5}, about ten times an update's replies"
            )
        if self.shares and 0 in (parts := allocate(self.shares, self.prompts)).values():
            name = next(name for name, part in parts.items() if not part)
            raise ValueError(f"shares: {name} gets none of an update's {self.prompts} prompts; give it more, or leave it out")
        if self.episodes % self.minibatches:
            raise ValueError(f"prompts * replies = {self.episodes} is not a multiple of minibatches = {self.minibatches}")
        if self.shard and self.mode != "full":
            raise ValueError("shard: only full fine-tuning spreads its weights; adapters are small (mode: full, or shard: false)")
        return self
