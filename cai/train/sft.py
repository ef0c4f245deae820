"""Supervised fine-tuning on TRL's SFTTrainer, of a LoRA adapter or of all weights.

Rows are a prompt and its completion; the loss is on the completion alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cai.errors import TrainError, blame
from cai.modeling.loading import load_model, window_of_weights
from cai.modeling.lora import merge_adapter_into
from cai.modeling.precision import frozen_dtype
from cai.modeling.thoughts import split_thoughts
from cai.modeling.tokenization import Renderer, load_renderer
from cai.progress import Progress
from cai.records import Chat
from cai.store import CHECKPOINTS
from cai.train.distributed import all_reduce_max, rank, single_process_env, written_by_first
from cai.train.sft_config import SFTConfig as SFTConfig
from cai.train.sft_trainer import COMPLETE_MARKER, IGNORE_INDEX, build_trainer
from cai.train.sharding import full_weights, is_sharded


class Example(NamedTuple):
    """A reply to learn."""

    chat: Chat
    reply: str
    has_end: bool = True
    """Whether the end token is learnt too."""


def sft(
    base: str,
    examples: Sequence[Example],
    config: SFTConfig,
    out: Path,
    *,
    seed: int,
    progress: Progress,
) -> dict[str, float | int]:
    """Train `base` on `examples` and save the full model (float32 safetensors) as the folder `out`.

    Processes that torchrun started call it together: each reads its share of a step's examples, and
    the first one writes. After a kill, the next call resumes from the last complete epoch, also
    with another number of processes.

    Returns:
        `examples` trained on, examples `too_long`, and the mean training `loss`, nats per token.

    Raises:
        TrainError: no example fits, or the loss is not a number.
    """
    renderer = load_renderer(base)
    longest = min(config.max_length, window_of_weights(base))
    rows, too_long = tokenize(renderer, examples, longest)
    if not rows:
        raise TrainError(f"sft: none of {len(examples)} examples fits into {longest} tokens")
    with written_by_first(out) as folder, blame(TrainError, "sft"):
        checkpoints = folder / CHECKPOINTS
        newest = all_reduce_max(_newest_checkpoint(checkpoints) if rank() == 0 else 0)
        resumed = str(checkpoints / f"checkpoint-{newest:.0f}") if newest else None
        with single_process_env():  # each trainer has all rows, and learns its share of a step
            trainer = build_trainer(base, rows, config, checkpoints, seed, progress)
            trainer.train(resume_from_checkpoint=resumed)
        loss = _mean_loss(trainer.state.log_history)
        if loss != loss:
            raise TrainError("sft: the loss is not a number; lower sft.learning_rate")
        model = _merged(base, trainer.model) if config.mode == "lora" else trainer.model
        weights = full_weights(model) if is_sharded(model) else None
        if rank() == 0:
            renderer.save(model, folder, weights)
    return {"examples": len(rows), "too_long": too_long, "loss": loss}


def _merged(base: str, model: Any) -> Any:
    """The adapter merged into the weights, in float32."""
    if frozen_dtype() == torch.float32:
        return model.merge_and_unload()
    target = load_model(base)
    merge_adapter_into(target, model, model.active_adapter)
    return target


def _mean_loss(log_history: Sequence[Mapping[str, float]]) -> float:
    """Mean loss of all steps, from the log of each epoch.

    The trainer's own mean leaves out the steps before a resume. The log is part of a checkpoint.
    """
    total, last = 0.0, 0
    for entry in log_history:
        if "loss" in entry:
            step = int(entry["step"])
            total += entry["loss"] * (step - last)
            last = step
    return total / last


def tokenize(
    renderer: Renderer, examples: Sequence[Example], max_tokens: int
) -> tuple[list[dict[str, list[int]]], int]:
    """(rows with `input_ids` and `labels`, number of examples longer than `max_tokens`)."""
    rows = []
    for example in examples:
        prompt, completion = renderer.prompt_ids(example.chat), completion_ids(renderer, example)
        if len(prompt) + len(completion) <= max_tokens:
            labels = [IGNORE_INDEX] * len(prompt) + completion
            rows.append({"input_ids": prompt + completion, "labels": labels})
    return rows, len(examples) - len(rows)


def completion_ids(renderer: Renderer, example: Example) -> list[int]:
    """The tokens that are learnt: no thought is."""
    if example.has_end:
        return renderer.response_ids(example.reply)
    return renderer.reply_ids(split_thoughts(example.reply).text)


def _newest_checkpoint(folder: Path) -> int:
    """The step of the newest complete checkpoint; 0: none.

    Incomplete ones, which a kill cut off, are deleted: the trainer would load the newest of all.
    """
    for checkpoint in list(folder.glob("checkpoint-*")):
        if not (checkpoint / COMPLETE_MARKER).exists():
            shutil.rmtree(checkpoint)
    return max((int(p.name.rpartition("-")[2]) for p in folder.glob("checkpoint-*")), default=0)
