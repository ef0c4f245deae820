"""Settings of PPO, in the sections that an update walks through: rollout, advantage, optimization,
KL control, pretraining mix.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cai.modeling.model_files import local_model_name
from cai.records import FrozenModel
from cai.train.messages import SHARD_NEEDS_FULL
from cai.train.ppo.prompt_sampler import Share, allocate

KL_CLIP = 0.2
"""Of the relative error that `cai.train.losses.KLController` acts on."""
COEF_FACTOR = 10.0
"""By which a run may move an adaptive KL coefficient, where `kl.horizon` is not given."""


class RolloutConfig(FrozenModel):
    """Sampling of an update's replies."""

    prompts_per_update: int = Field(16, ge=1)
    """Prompts, at most, that an update learns from."""
    responses_per_prompt: int = Field(4, ge=1)
    candidates: float = Field(1.0, ge=1)
    """Prompts sampled for each of `prompts_per_update`. Above 1, an update learns from those whose
    responses earn different rewards: the others teach nothing (dynamic sampling,
    arXiv:2503.14476, section 3.2).
    """
    min_gap: float = Field(0.0, ge=0)
    """With `candidates` above 1: rewards of a prompt that lie no further apart than this count as
    equal.
    """
    shares: dict[Share, Annotated[float, Field(gt=0)]] | None = None
    """Relative share of each kind among the prompts, or of a category of a kind
    (`benign/borderline`); None: in the proportions of the data.

    A kind stands for all its categories but those that have a share of their own.
    """
    max_new_tokens: int = Field(48, ge=1)
    """Longest response, tokens."""
    temperature: float = Field(0.7, gt=0)
    """Sampling temperature; log-probabilities of policy and reference are computed at the same."""
    missing_eos_penalty: float = Field(0.0, ge=0)
    """Reward lost by a response that the model did not end itself."""

    @property
    def candidate_prompts(self) -> int:
        """Prompts sampled per update."""
        return round(self.prompts_per_update * self.candidates)

    @property
    def sampled_responses(self) -> int:
        """Responses per update that are sampled and rewarded."""
        return self.candidate_prompts * self.responses_per_prompt

    @property
    def episodes(self) -> int:
        """Responses per update that are learnt from, at most."""
        return self.prompts_per_update * self.responses_per_prompt


class AdvantageConfig(FrozenModel):
    """From rewards and values to advantages. Rewards are not discounted (gamma = 1)."""

    baseline: Literal["critic", "group"] = "critic"
    """What a response's reward is compared with: the critic's value of each token, or the mean
    reward of the prompt's other responses (leave one out, arXiv:2402.14740).
    """
    lam: float = Field(1.0, ge=0, le=1)
    """GAE's lambda of the advantages (arXiv:1506.02438, eq. 16). A lower value relies more on the
    critic. With one that knows nothing yet it rewards length: A_t = lam^(tokens left) * reward.
    """
    value_lam: float = Field(0.95, ge=0, le=1)
    """GAE's lambda of the returns that the critic learns."""
    center_by_kind: bool = False
    """Subtract the mean advantage of the prompt's kind. Without it, while the critic is untrained,
    the best responses to a kind with low rewards get negative advantages.
    """
    scale_by_kind: bool = False
    """Divide advantages by the root mean square of those of the prompt's kind, so that the kind
    with the largest gaps between its rewards does not decide the update.
    """
    whiten_advantages: bool = True
    """Zero mean and unit variance over the whole update."""
    scale_rewards: bool = False
    """Divide the tokens' rewards, KL penalty included, by their standard deviation over the whole
    update.
    """


class OptimizationConfig(FrozenModel):
    """Optimizer steps on an update's experience."""

    learning_rate: float = Field(3e-4, gt=0)
    critic_learning_rate: float = Field(2e-3, gt=0)
    num_ppo_epochs: int = Field(1, ge=1)
    """Passes over an update's experience, in the same minibatches."""
    num_minibatches: int = Field(4, ge=1)
    """Optimizer steps per pass."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Responses per forward pass, which bounds memory. Gradients of a minibatch's micro-batches are
    accumulated. None: 16, and on a GPU 64, if the weights are not sharded; where memory runs out,
    half of it and so on.
    """
    clip_range: float = Field(0.2, gt=0)
    """Clips the probability ratio to 1 ± this."""
    value_clip_range: float | None = Field(None, gt=0)
    """Clips a value's change in an update to ± this (in units of the reward; of its standard
    deviation with `scale_rewards`); None: it is not clipped.
    """
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients of policy and of critic are each clipped to this norm."""
    lr_warmup_steps: int = Field(0, ge=0)
    """The policy's first optimizer steps, in which its learning rate rises from a tenth."""
    critic_warmup_updates: int = Field(0, ge=0)
    """Updates in which only the critic learns."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay per optimizer step of the averaged policy weights, which become the final policy; None:
    the last weights.
    """


class BalanceConfig(FrozenModel):
    """Weights of groups of prompts that follow how often their responses fail (dual ascent, as the
    multipliers of Safe RLHF: arXiv:2310.12773, section 3.2).
    """

    targets: dict[Share, Annotated[float, Field(gt=0, lt=1)]] = {}
    """Share of failing responses to tolerate, by kind of prompt or by `kind/category`. Without
    `rollout.shares`, an update draws equally many prompts of each. Empty: no weights.
    """
    part: str = "rubric"
    """A response fails where this part of its reward is below 0."""
    step: float = Field(0.3, gt=0)
    """Largest change of a weight's logarithm in an update."""
    smoothing: float = Field(0.5, ge=0, lt=1)
    """Share of the past in the running rate of failures."""
    max_weight: float = Field(4.0, gt=1)
    """Weights lie between 1 / this and this, before their mean is set to 1."""


class ValidationConfig(FrozenModel):
    """Answers to validation prompts, on which nothing is learnt: the policy that does best on them
    becomes the final one (as InstructGPT's models were chosen, arXiv:2203.02155, section 3.5).
    """

    every: int = Field(2, ge=1)
    """Updates between two validations; there is one before the first update and one after the last.
    """
    draws: int = Field(2, ge=1)
    """Responses to each prompt, at the temperature of the rollouts."""


class KLConfig(FrozenModel):
    """KL penalty to the reference policy: coefficient, adaptive target, early stop."""

    coef: float = Field(0.05, ge=0)
    """Reward lost per nat: the fixed coefficient, or the adaptive controller's first."""
    target: float | None = Field(None, gt=0)
    """Nats per response that the adaptive controller steers to; None: the coefficient is fixed."""
    horizon: int | None = Field(None, ge=1)
    """Episodes in which the controller may move the coefficient by a factor of about e^0.2; None:
    from the run's size, so that the run may move it by a factor of about ten.
    """
    stop: float | None = Field(None, gt=0)
    """An update ends after the step whose `approx_kl` exceeds this many nats a token; None: never
    early.
    """

    @model_validator(mode="after")
    def _controller_can_move(self) -> KLConfig:
        if self.target is not None and not self.coef:
            raise ValueError(
                "coef = 0 stays 0 whatever the controller multiplies it by; "
                "give the coefficient to begin with"
            )
        return self


class PtxConfig(FrozenModel):
    """Pretraining gradients mixed into each step (PPO-ptx, arXiv:2203.02155 section 3.5)."""

    coef: float = Field(0.0, ge=0)
    """Weight of the mean negative log-likelihood of the text; 0 turns it off."""
    batch_size: int = Field(8, ge=1)
    """Texts per step."""
    files: tuple[Annotated[str, Field(pattern=r"\.(txt|jsonl)(\.gz|\.zst)?$")], ...] = ()
    """Pretraining text, relative to the run's YAML: plain `.txt`, or `.jsonl` with a `text` column.
    Without files: the run's own fine-tuning text.
    """
    max_length: int = Field(512, ge=2)
    """Tokens of the chunks that `files` are cut into; no more than the model's window."""

    @model_validator(mode="after")
    def _files_are_used(self) -> PtxConfig:
        if self.files and not self.coef:
            raise ValueError("files are mixed in by their weight, and coef is 0: give it")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "instructgpt": {
        "mode": "full",
        "critic": "reward",
        "num_updates": 500,
        "rollout": {"prompts_per_update": 512, "responses_per_prompt": 1, "temperature": 1.0},
        "optimization": {
            "learning_rate": 9e-6,
            "critic_learning_rate": 9e-6,
            "num_minibatches": 8,
            "lr_warmup_steps": 80,
            "ema_decay": 0.992,
        },
        "ptx": {"coef": 27.8, "batch_size": 512},
        "kl": {"coef": 0.02},
    },
    "cai": {"rollout": {"responses_per_prompt": 1, "temperature": 1.0}, "kl": {"coef": 0.001}},
}
"""Published recipes by name.

`instructgpt`: arXiv:2203.02155 section 3.5 and appendix C (256,000 episodes, 512 an update in eight
minibatches, eight pretraining texts an episode), for models of a billion weights and more. Where it
differs from the paper or the paper is silent:

- the policy's learning rate is not published (appendix E.9 scans 2.55e-6 to 2.55e-5): 9e-6 is the
  value function's;
- GAE's lambda is not published: 1;
- the critic is linear heads on the preference model's frozen states, not a network of its own;
- Adam's second decay is 0.999, not 0.95;
- its ptx weight is meant for pretraining text, which `ptx.files` names; without it the run's own
  fine-tuning text is mixed in, and a line says so;
- the longest response is whatever `max_new_tokens` says.

`cai`: arXiv:2212.08073 says little beyond the reward, which is that of arXiv:2204.05862: the
preference model's less 0.001 of the KL.
"""


class PPOConfig(FrozenModel):
    """Settings of PPO; keys given beside `preset` override the recipe."""

    preset: Literal["instructgpt", "cai"] | None = None
    """A published recipe."""
    num_updates: int = Field(8, ge=0)
    """Rounds of rollout and optimization."""
    mode: Literal["lora", "full"] = "lora"
    """LoRA adapters on one frozen base, or every weight, with a second model as the reference."""
    reference: Literal["sft", "base"] = "sft"
    """What the KL is measured from: the fine-tuned model, where the policy starts; or the run's
    `model`, as it was before fine-tuning. `base` holds one more model in memory.
    """
    shard: bool = False
    """With `full` and several processes: weights, gradients and optimizer state are sharded over
    them (FSDP2).
    """
    gradient_checkpointing: bool = False
    """Compute the policy's activations again in the backward pass instead of keeping them: less
    memory for long rows, and the steps that learn take about a third longer. Sampling is as it was.
    """
    lora_rank: int = Field(16, ge=1)
    num_trainable_layers: int | None = Field(None, ge=1)
    """Only the last blocks of the model learn, which makes an update cheaper; None: all."""
    critic: str = "reference"
    """Hidden states that the value heads take: the reference's, starting at the mean reward of the
    first update; or the preference model's (`reward`), starting as its head and the mean of the
    rest; or those of another model, such as a larger one of the same family, which has to encode
    texts alike: `local:FOLDER_OR_HUB_ID`.
    """
    save_every: int = Field(1, ge=1)
    """Updates between checkpoints: what a kill costs at most. The state of full fine-tuning is
    three times the model's size.
    """
    rollout: RolloutConfig = RolloutConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    balance: BalanceConfig = BalanceConfig()
    validation: ValidationConfig = ValidationConfig()
    kl: KLConfig = KLConfig()
    ptx: PtxConfig = PtxConfig()

    @field_validator("critic")
    @classmethod
    def _critic_is_known(cls, critic: str) -> str:
        if critic in ("reference", "reward") or local_model_name(critic) is not None:
            return critic
        raise ValueError(
            f"{critic!r} is none of reference, reward, smollm2 and local:FOLDER_OR_HUB_ID"
        )

    @property
    def critic_model(self) -> str | None:
        """The spec of the critic's own model; None: it reads another's states."""
        return None if self.critic in ("reference", "reward") else self.critic

    @property
    def kl_horizon(self) -> float:
        """Episodes: `kl.horizon`, or the one that follows from the run's size.

        An update of n responses multiplies the coefficient by 1 + e * n / horizon, with an error e
        of at most 0.2 either way. Under a full error, a run of N responses in all multiplies it by
        about exp(±0.2 * N / horizon), which is ten, or a tenth, for

            horizon = 0.2 * N / ln 10

        A run of few updates would need large steps for that. The horizon is so long that no update
        changes the coefficient by more than a half.
        """
        if self.kl.horizon is not None:
            return self.kl.horizon
        run = KL_CLIP * self.num_updates * self.rollout.episodes / math.log(COEF_FACTOR)
        return max(run, 2 * KL_CLIP * self.rollout.sampled_responses)

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        name = data.get("preset")
        merged = dict(PRESETS.get(name, {})) if isinstance(name, str) else {}
        for key, value in data.items():
            recipe = merged.get(key)
            both_sections = isinstance(recipe, dict) and isinstance(value, dict)
            merged[key] = recipe | value if both_sections else value
        return merged

    @model_validator(mode="after")
    def _sizes_fit(self) -> PPOConfig:
        episodes, minibatches = self.rollout.episodes, self.optimization.num_minibatches
        # where no prompt is informative, an update learns from all that it sampled
        most = self.rollout.sampled_responses
        if self.kl.target is not None and KL_CLIP * most >= self.kl_horizon:
            raise ValueError(
                f"kl.horizon = {self.kl.horizon}: an update of {most} responses could make "
                "the coefficient zero or negative;"
                f" give more than {most // 5}, about ten times an update's responses"
            )
        if self.rollout.shares:
            counts = allocate(self.rollout.shares, self.rollout.prompts_per_update)
            empty = [name for name, count in counts.items() if not count]
            if empty:
                raise ValueError(
                    f"rollout.shares: {empty[0]} gets none of an update's "
                    f"{self.rollout.prompts_per_update} prompts;"
                    " give it more, or leave it out"
                )
        if episodes % minibatches:
            raise ValueError(
                f"rollout.prompts_per_update * rollout.responses_per_prompt = {episodes}"
                f" is not a multiple of optimization.num_minibatches = {minibatches}"
            )
        if self.shard and self.mode != "full":
            raise ValueError(SHARD_NEEDS_FULL)
        return self
