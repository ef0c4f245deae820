"""TRL's SFTTrainer with the loss of replies, in one process or in several.

In several processes each has a trainer of its own that sees all rows in the same order, takes its
share of a step's rows, and gets the gradients of all. So the steps are those of one process, for
any number of rows.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cai.errors import TrainError
from cai.modeling.activation_checkpointing import checkpoint_blocks
from cai.modeling.fast_paths import backbone
from cai.modeling.loading import load_frozen, load_model
from cai.modeling.logits import logit_head
from cai.modeling.lora import lora_config, without_rename_warning
from cai.modeling.out_of_memory import with_smaller_batches
from cai.modeling.precision import autocast, device
from cai.modeling.tokenization import load_renderer
from cai.progress import Progress
from cai.train.distributed import (
    all_reduce_sum,
    full_tensor,
    local_share,
    rank,
    share_rng_state,
    world_size,
)
from cai.train.sft_config import SFTConfig
from cai.train.sharding import (
    full_optimizer_state,
    full_weights,
    head_of,
    is_sharded,
    load_full_optimizer_state,
    load_full_weights,
    same_batches,
    shard_model,
    sum_gradients,
)

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers report usage by default
IGNORE_INDEX = -100
"""Label of tokens without a loss."""
COMPLETE_MARKER = "whole"
"""File that marks a checkpoint as completely written."""
OPTIMIZER_FILE = "optimizer.pt"
SCHEDULER_FILE = "scheduler.pt"


def build_trainer(
    base: str,
    rows: list[dict[str, Any]],
    config: SFTConfig,
    folder: Path,
    seed: int,
    progress: Progress,
) -> Any:
    """A trainer of the model `base`, whose checkpoints go to `folder`.

    Args:
        rows: `input_ids`, and `labels` with IGNORE_INDEX where nothing is learnt.
    """
    from datasets import Dataset
    from transformers import PrinterCallback

    lora = config.mode == "lora"
    model = load_frozen(base) if lora else load_model(base)
    if config.gradient_checkpointing:
        checkpoint_blocks(model, config.num_trainable_layers if lora else None)
    if config.shard and world_size() > 1:
        shard_model(model)
    adapter = lora_config(model, config.lora_rank, config.num_trainable_layers) if lora else None
    with without_rename_warning():
        trainer = _reply_trainer_class()(
            model=model,
            args=_arguments(config, folder, seed),
            train_dataset=Dataset.from_list(rows),
            processing_class=load_renderer(base).tokenizer,
            peft_config=adapter,
            callbacks=[_callback(folder, progress)],
        )
    trainer.remove_callback(PrinterCallback)  # it prints to standard output, which is for results
    return trainer


def _reply_trainer_class() -> Any:
    from trl import SFTTrainer

    class ReplyTrainer(SFTTrainer):  # type: ignore[misc]
        """SFTTrainer with plain cross-entropy on this process's share of a step's rows.

        The LM head runs on reply tokens alone, which on a CPU is several times faster than TRL's
        tiled head. Rows are right-padded, so causal attention needs no mask. A batch that memory
        has no room for is learnt in parts.
        """

        most_rows: int | None = None
        """Rows of a forward pass; None: all of a batch."""
        full_state: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        """Weights and optimizer state of a sharded model, while a checkpoint is written."""

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            model = self.accelerator.unwrap_model(model)
            model = model.get_base_model() if hasattr(model, "get_base_model") else model
            return _summed_loss(model, inputs["input_ids"], inputs["labels"]) / num_items_in_batch

        def training_step(
            self, model: Any, inputs: Any, num_items_in_batch: Any = None
        ) -> torch.Tensor:
            if num_items_in_batch is None:
                num_items_in_batch = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum()
            local, has_rows = local_rows(inputs)
            if not has_rows:
                num_items_in_batch = math.inf  # the row counts for nothing
            rows = len(local["input_ids"])

            def gradients(size: int) -> torch.Tensor:
                model.zero_grad()
                parts = [
                    super(ReplyTrainer, self).training_step(
                        model,
                        {name: value[start : start + size] for name, value in local.items()},
                        num_items_in_batch,
                    )
                    for start in range(0, rows, size)
                ]
                return torch.stack(parts).sum()

            size = min(rows, self.most_rows or rows)
            if is_sharded(model):
                with same_batches("sft: out of memory: lower sft.batch_size"):
                    loss = gradients(rows)
            else:
                loss, fitting = with_smaller_batches("sft", size, gradients, TrainError)
                self.most_rows = fitting if fitting < size else self.most_rows
            sum_gradients(model.parameters())
            all_reduce_sum([loss])
            return loss

        def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
            return full_tensor(super()._get_grad_norm(model, grad_norm))

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            if is_sharded(self.model):  # every process has a part
                self.full_state = full_weights(self.model), full_optimizer_state(self.optimizer)
            if rank() == 0:
                super()._save_checkpoint(model, trial)
            self.full_state = None

        def save_model(self, output_dir: Any = None, _internal_call: bool = False) -> None:
            if self.full_state is None:
                super().save_model(output_dir, _internal_call)
            else:
                self._save(output_dir, self.full_state[0])

        def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
            if self.full_state is None:
                super()._save_optimizer_and_scheduler(output_dir)
            else:  # the files that the trainer of a whole model writes
                torch.save(self.full_state[1], Path(output_dir) / OPTIMIZER_FILE)
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_FILE)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            if is_sharded(self.model):
                load_full_weights(self.model, _weights_in(Path(resume_from_checkpoint)))
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            if checkpoint is None or not is_sharded(self.model):
                super()._load_optimizer_and_scheduler(checkpoint)
                return
            optimizer, scheduler = (
                torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
                for name in (OPTIMIZER_FILE, SCHEDULER_FILE)
            )
            load_full_optimizer_state(self.optimizer, optimizer)
            self.lr_scheduler.load_state_dict(scheduler)

    return ReplyTrainer


def local_rows(inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """This process's share of a step's rows, without padding that only others need.

    Returns:
        The rows, and whether there are any; if not, the rows are the first one, for each process
        takes part in each pass of sharded weights.
    """
    rows = {name: inputs[name] for name in ("input_ids", "labels")}
    if world_size() == 1:
        return rows, True
    share = local_share(range(len(rows["labels"])))
    rows = {name: value[share or [0]] for name, value in rows.items()}
    # a row ends with the last token that is learnt
    longest = int((rows["labels"] != IGNORE_INDEX).nonzero()[:, 1].max()) + 1
    return {name: value[:, :longest] for name, value in rows.items()}, bool(share)


def _summed_loss(model: Any, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """-log P of the tokens that are learnt, summed."""
    target_BT = labels_BT[:, 1:] != IGNORE_INDEX
    head = head_of(model) if is_sharded(model) else logit_head(model)
    with autocast(model.device):
        outputs = backbone(model)(input_ids=ids_BT, use_cache=False)
        hidden_NE = outputs.last_hidden_state[:, :-1][target_BT]
        logits_NV = head(hidden_NE).float()
    return torch.nn.functional.cross_entropy(
        logits_NV, labels_BT[:, 1:][target_BT], reduction="sum"
    )


def _weights_in(folder: Path) -> Mapping[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        weights |= load_file(file)
    return weights


def _keep_only(newest: Path) -> None:
    """Mark a checkpoint as complete, then delete the others: a kill leaves a complete one."""
    (newest / COMPLETE_MARKER).touch()
    for checkpoint in list(newest.parent.glob("checkpoint-*")):
        if checkpoint != newest:
            shutil.rmtree(checkpoint)


def _callback(folder: Path, progress: Progress) -> Any:
    from transformers import TrainerCallback

    class ProgressAndCheckpoints(TrainerCallback):  # type: ignore[misc]
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # the order of rows is drawn next; a model with dropout has drawn for its rows alone
            share_rng_state()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress(state.global_step, state.max_steps)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if rank() == 0:
                _keep_only(folder / f"checkpoint-{state.global_step}")

    return ProgressAndCheckpoints()


def _arguments(config: SFTConfig, folder: Path, seed: int) -> Any:
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
        activation_checkpointing=False,  # that of the trainer changes adapters' inputs; see above
        dataloader_pin_memory=False,
        seed=seed,
    )
    if device().type == "cuda":
        # else the first card for each process, and batches spread over all cards that it sees
        arguments._setup_devices = device()
        arguments._n_gpu = 1
        torch.cuda.set_device(device())
    return arguments
