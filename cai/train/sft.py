"""Supervised fine-tuning on TRL's SFTTrainer, of a LoRA adapter or of all weights.

Rows are a prompt and its completion; the loss is on the completion alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field

from cai.errors import TrainError, blame
from cai.modeling.fast_paths import backbone
from cai.modeling.loading import load_frozen, load_model, window_of_weights
from cai.modeling.logits import logit_head
from cai.modeling.lora import lora_config, merge_adapter_into
from cai.modeling.out_of_memory import with_smaller_batches
from cai.modeling.precision import autocast, device, frozen_dtype
from cai.modeling.thoughts import split_thoughts
from cai.modeling.tokenization import Renderer, load_renderer
from cai.progress import Progress
from cai.records import Chat, FrozenModel
from cai.store import atomic_directory
from cai.train.ppo.prompt_sampler import Share

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers report usage by default
IGNORE_INDEX = -100
"""Label of tokens without a loss."""
COMPLETE_MARKER = "whole"
"""File that marks a checkpoint as completely written."""


class Example(NamedTuple):
    """A reply to learn."""

    chat: Chat
    reply: str
    has_end: bool = True
    """Whether the end token is learnt too."""


Weight = Annotated[float, Field(ge=0, le=100)]


class SFTConfig(FrozenModel):
    """How the reply model is fine-tuned."""

    mode: Literal["lora", "full"] = "lora"
    lora_rank: int = Field(16, ge=1)
    """Of the LoRA adapter; it is merged into the saved model."""
    num_trainable_layers: int | None = Field(None, ge=1)
    """Number of last blocks that get LoRA; fewer make a step cheaper. None: all blocks."""
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

    After a kill, the next call resumes from the last complete epoch.

    Returns:
        `examples` trained on, examples `too_long`, and the mean training `loss`, nats per token.

    Raises:
        TrainError: no example fits, or the loss is not a number.
    """
    renderer = load_renderer(base)
    longest = min(config.max_length, window_of_weights(base))
    rows, too_long = _tokenize(renderer, examples, longest)
    if not rows:
        raise TrainError(f"sft: none of {len(examples)} examples fits into {longest} tokens")
    with atomic_directory(out) as folder, blame(TrainError, "sft"):
        checkpoints = folder / "checkpoints"
        trainer = _build_trainer(base, rows, config, checkpoints, seed, progress)
        trainer.train(resume_from_checkpoint=_last_complete_checkpoint(checkpoints))
        loss = _mean_loss(trainer.state.log_history)
        if loss != loss:
            raise TrainError("sft: the loss is not a number; lower sft.learning_rate")
        model = _merged(base, trainer.model) if config.mode == "lora" else trainer.model
        renderer.save(model, folder)
        shutil.rmtree(checkpoints, ignore_errors=True)
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


def _tokenize(
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


def _last_complete_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint in `folder`.

    Incomplete ones are deleted: the trainer would load the newest of all.
    """
    for checkpoint in list(folder.glob("checkpoint-*")):
        if not (checkpoint / COMPLETE_MARKER).exists():
            shutil.rmtree(checkpoint)
    complete = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    return str(complete[-1]) if complete else None


def _keep_only(newest: Path) -> None:
    """Mark a checkpoint as complete, then delete the others: a kill leaves a complete one."""
    (newest / COMPLETE_MARKER).touch()
    for checkpoint in list(newest.parent.glob("checkpoint-*")):
        if checkpoint != newest:
            shutil.rmtree(checkpoint)


def _build_trainer(
    base: str,
    rows: list[dict[str, Any]],
    config: SFTConfig,
    folder: Path,
    seed: int,
    progress: Progress,
) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback

    lora = config.mode == "lora"
    model = load_frozen(base) if lora else load_model(base)
    trainer = _reply_trainer_class()(
        model=model,
        args=_trainer_arguments(config, folder, seed),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_renderer(base).tokenizer,
        peft_config=lora_config(model, config.lora_rank, config.num_trainable_layers)
        if lora
        else None,
        callbacks=[_callback(folder, progress)],
    )
    trainer.remove_callback(PrinterCallback)  # it prints to standard output, which is for results
    return trainer


def _reply_trainer_class() -> Any:
    from trl import SFTTrainer

    class ReplyTrainer(SFTTrainer):  # type: ignore[misc]
        """SFTTrainer with plain cross-entropy.

        The LM head runs on reply tokens alone, which on a CPU is several times faster than TRL's
        tiled head. Rows are right-padded, so causal attention needs no mask. A batch that memory
        has no room for is learnt in parts.
        """

        most_rows: int | None = None
        """Rows of a forward pass; None: all of a batch."""

        def training_step(
            self, model: Any, inputs: Any, num_items_in_batch: Any = None
        ) -> torch.Tensor:
            rows = len(inputs["input_ids"])
            if num_items_in_batch is None:
                num_items_in_batch = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum()

            def gradients(size: int) -> torch.Tensor:
                model.zero_grad()
                parts = [
                    super(ReplyTrainer, self).training_step(
                        model,
                        {name: value[start : start + size] for name, value in inputs.items()},
                        num_items_in_batch,
                    )
                    for start in range(0, rows, size)
                ]
                return torch.stack(parts).sum()

            size = min(rows, self.most_rows or rows)
            loss, fitting = with_smaller_batches("sft", size, gradients, TrainError)
            if fitting < size:
                self.most_rows = fitting
            return loss

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            labels_BT = inputs["labels"][:, 1:]
            target_BT = labels_BT != IGNORE_INDEX
            model = self.accelerator.unwrap_model(model)
            model = model.get_base_model() if hasattr(model, "get_base_model") else model
            with autocast(model.device):
                outputs = backbone(model)(input_ids=inputs["input_ids"], use_cache=False)
                hidden_NE = outputs.last_hidden_state[:, :-1][target_BT]
                logits_NV = logit_head(model)(hidden_NE).float()
            total = torch.nn.functional.cross_entropy(
                logits_NV, labels_BT[target_BT], reduction="sum"
            )
            return total / (target_BT.sum() if num_items_in_batch is None else num_items_in_batch)

    return ReplyTrainer


def _callback(folder: Path, progress: Progress) -> Any:
    from transformers import TrainerCallback

    class ProgressAndCheckpoints(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress(state.global_step, state.max_steps)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            _keep_only(folder / f"checkpoint-{state.global_step}")

    return ProgressAndCheckpoints()


def _trainer_arguments(config: SFTConfig, folder: Path, seed: int) -> Any:
    from trl import SFTConfig as TRLConfig

    arguments = TRLConfig(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        max_length=config.max_length,
        # Rows hold token ids already: untrusted text must not become control tokens.
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="group_by_length",
        save_strategy="epoch",
        logging_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        bf16=False,  # compute_loss sets the precision
        use_cpu=device().type == "cpu",
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        seed=seed,
    )
    if arguments.n_gpu > 1:
        # one process learns on one GPU: several would get `batch_size` rows each
        arguments._n_gpu = 1
    return arguments
