"""Supervised fine-tuning on TRL's SFTTrainer: prompt and completion rows, loss on the completion alone, LoRA or all weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from cai.errors import TrainError, blame
from cai.modeling.loading import load_model
from cai.modeling.lora import lora_config
from cai.modeling.precision import autocast, device
from cai.modeling.tokenization import load_renderer
from cai.progress import Progress
from cai.records import Chat, FrozenModel
from cai.store import atomic_directory

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers report their use otherwise
Example = tuple[Chat, str]
"""(chat, the reply to learn)"""
WHOLE = "whole"
"""File that marks a checkpoint as written to its end."""


class SFTConfig(FrozenModel):
    """How the reply model is fine-tuned."""

    mode: Literal["lora", "full"] = "lora"
    rank: int = Field(16, ge=1)
    """Of the LoRA adapter; it is merged into the saved model."""
    layers: int | None = Field(None, ge=1)
    """LoRA on the model's last so many blocks only, which makes a step cheaper; None: on all."""
    learning_rate: float = Field(5e-4, gt=0)
    epochs: float = Field(3.0, gt=0)
    batch_size: int = Field(8, ge=1)
    """Examples a step."""
    max_tokens: int = Field(512, ge=8)
    """Longer examples are left out and counted."""


def sft(
    base: str,
    examples: Sequence[Example],
    config: SFTConfig,
    out: Path,
    *,
    seed: int,
    progress: Progress,
) -> dict[str, float | int]:
    """Train `base` on `examples` and save the whole model (float32 safetensors) as the folder `out`.

    Killed and called again, it goes on from the last whole epoch.

    Returns:
        Counts: examples, examples too long, final loss.

    Raises:
        TrainError: no example fits, or the loss is not a number.
    """
    renderer = load_renderer(base)
    rows, long = [], 0
    for chat, reply in examples:
        prompt, completion = renderer.prompt_ids(chat), renderer.reply_ids(reply)
        if len(prompt) + len(completion) > config.max_tokens:
            long += 1
            continue
        rows.append({"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion})
    if not rows:
        raise TrainError(
            f"sft: none of {len(examples)} examples fits into {config.max_tokens} tokens"
        )
    with atomic_directory(out) as folder, blame(TrainError, "sft"):
        checkpoints = folder / "checkpoints"
        trainer = _trainer(base, rows, config, checkpoints, seed, progress)
        result = trainer.train(resume_from_checkpoint=_whole_checkpoint(checkpoints))
        loss = float(result.training_loss)
        if loss != loss:
            raise TrainError("sft: the loss is not a number; lower sft.learning_rate")
        model = trainer.model.merge_and_unload() if config.mode == "lora" else trainer.model
        model.save_pretrained(folder)
        renderer.tokenizer.save_pretrained(folder)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return {"examples": len(rows), "too_long": long, "loss": loss}


def _whole_checkpoint(home: Path) -> str | None:
    """The newest checkpoint that was written to its end; torn ones are dropped, for the trainer would load the newest of all."""
    for torn in [p for p in home.glob("checkpoint-*") if not (p / WHOLE).exists()]:
        shutil.rmtree(torn)
    found = sorted(home.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    return str(found[-1]) if found else None


def _keep_alone(newest: Path) -> None:
    """Mark a checkpoint as whole, and only then drop the others: a kill leaves the old one or this one."""
    (newest / WHOLE).touch()
    for older in [p for p in newest.parent.glob("checkpoint-*") if p != newest]:
        shutil.rmtree(older)


def _trainer(
    base: str,
    rows: list[dict[str, Any]],
    config: SFTConfig,
    folder: Path,
    seed: int,
    progress: Progress,
) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig as TRLConfig
    from trl import SFTTrainer

    class ReplyTrainer(SFTTrainer):  # type: ignore[misc]
        """SFTTrainer with the plain loss: the head runs on reply tokens alone, which on a CPU is several times faster than
        TRL's tiled head, and rows are right-padded, so causal attention needs no mask."""

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            labels_BT = inputs["labels"][:, 1:]
            learnt_BT = labels_BT != -100
            base = self.accelerator.unwrap_model(model)
            base = base.get_base_model() if hasattr(base, "get_base_model") else base
            with autocast(base.device):
                hidden_BTE = base.base_model(
                    input_ids=inputs["input_ids"], use_cache=False
                ).last_hidden_state
                logits_NV = base.get_output_embeddings()(hidden_BTE[:, :-1][learnt_BT]).float()
            total = torch.nn.functional.cross_entropy(
                logits_NV, labels_BT[learnt_BT], reduction="sum"
            )
            return total / (learnt_BT.sum() if num_items_in_batch is None else num_items_in_batch)

    class Tell(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress(state.global_step, state.max_steps)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            _keep_alone(folder / f"checkpoint-{state.global_step}")

    model = load_model(base)
    settings = TRLConfig(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        max_length=config.max_tokens,
        dataset_kwargs={
            "skip_prepare_dataset": True
        },  # our own tokens: untrusted text must not become control tokens
        train_sampling_strategy="group_by_length",
        save_strategy="epoch",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        bf16=False,  # compute_loss decides on number formats
        use_cpu=device().type == "cpu",
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        seed=seed,
    )
    trainer = ReplyTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=load_renderer(base).tokenizer,
        peft_config=lora_config(model, config.rank, config.layers)
        if config.mode == "lora"
        else None,
        callbacks=[Tell()],
    )
    trainer.remove_callback(PrinterCallback)  # it would print its numbers between our own output
    return trainer
