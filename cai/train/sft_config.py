"""Settings of supervised fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cai.records import FrozenModel
from cai.train.messages import SHARD_NEEDS_FULL
from cai.train.ppo.prompt_sampler import Share

Weight = Annotated[float, Field(ge=0, le=100)]


class SFTConfig(FrozenModel):
    """How the reply model is fine-tuned."""

    mode: Literal["lora", "full"] = "lora"
    lora_rank: int = Field(16, ge=1)
    """Of the LoRA adapter; it is merged into the saved model."""
    num_trainable_layers: int | None = Field(None, ge=1)
    """Number of last blocks that get LoRA; fewer make a step cheaper. None: all blocks."""
    shard: bool = False
    """With `full` and several processes: weights, gradients and optimizer state are sharded over
    them (FSDP2)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory for long
    rows, and a step takes about a third longer."""
    learning_rate: float = Field(5e-4, gt=0)
    epochs: float = Field(3.0, gt=0)
    batch_size: int = Field(8, ge=1)
    """Examples a step."""
    max_length: int = Field(512, ge=8)
    """Longer examples are left out and counted, and so are those longer than the model's window."""
    rounds: Literal["last", "all"] = "last"
    """Which revisions of a reply are learnt: the final one, or those of all rounds that the filters
    let through, as in the paper. For several, set `revise.stop_when_kept: false`."""
    cut_replies: Literal["end", "open", "drop"] = "end"
    """Replies that reached their limit of tokens, and have lost their unfinished sentence. `end`:
    learnt as if they ended there; `open`: learnt without the end token; `drop`: left out."""
    max_repeats: int | None = Field(None, ge=1)
    """Most rows with the same reply, such as one refusal to many requests. White space makes no
    difference. Which ones stay is drawn by the seed. None: all."""
    weights: dict[Share, Weight] = {}
    """How often a row is learnt in each epoch, by kind, or `kind/category`, of its prompt; others
    are learnt once. A weight of 1.5 repeats half of the rows, drawn by the seed; 0 leaves a group
    out. Names are those of `ppo.rollout.shares`."""
    extra: tuple[str, ...] = ()
    """Files of demonstrations, which are learnt like replies of the run: rows with a prompt or a
    conversation, and `response` or a last turn of the assistant. Relative to the run's YAML."""

    @model_validator(mode="after")
    def _adapters_are_not_sharded(self) -> SFTConfig:
        if self.shard and self.mode != "full":
            raise ValueError(SHARD_NEEDS_FULL)
        return self
