"""Settings of the preference model's training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cai.records import FrozenModel
from cai.train.messages import SHARD_NEEDS_FULL


class RewardConfig(FrozenModel):
    """How the preference model is trained."""

    mode: Literal["lora", "full"] = "lora"
    """A LoRA adapter on the fine-tuned model, or a model of its own, whose every weight learns."""
    shard: bool = False
    """With `full` and several processes: weights, gradients and optimizer state are sharded over
    them (FSDP2)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory for long
    rows, and a step takes about a third longer."""
    lora_rank: int = Field(16, ge=1)
    num_trainable_layers: int | None = Field(None, ge=1)
    """Number of last blocks that are trained; None: all."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak; it decays linearly to zero."""
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(8, ge=1)
    """Pairs a step. All pairs of a prompt are in one step (arXiv:2203.02155, section 3.4), even
    where that makes it larger; a prompt with more than 64 pairs has several steps. In a step each
    prompt weighs the same, however many pairs it has."""
    label_share: float | None = Field(None, gt=0, lt=1)
    """Share of the run's pairs among all pairs, where the run has `preferences` too: pairs of the
    side with too many are dropped. None: all pairs of both."""
    labels: Literal["soft", "hard"] = "soft"
    """Probabilities as they are, or (as an ablation) rounded to 0 and 1; ties stay one half."""
    held_out: float = Field(0.2, ge=0, lt=1)
    """Share of prompts whose pairs measure the model instead of training it."""
    patience: int | None = Field(None, ge=1)
    """Early stopping: the number of epochs without a lower log loss on held-out pairs after which
    training stops and the best epoch's weights are restored. Half of the held-out prompts decide
    this and the other half measure. None: all epochs are run, and all of those prompts measure."""
    max_grad_norm: float = Field(1.0, gt=0)
    save_every: int = Field(200, ge=1)
    """Steps between checkpoints: what a kill costs at most."""

    @model_validator(mode="after")
    def _adapters_are_not_sharded(self) -> RewardConfig:
        if self.shard and self.mode != "full":
            raise ValueError(SHARD_NEEDS_FULL)
        return self
