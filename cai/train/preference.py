"""Training of the preference model on soft labels.

Source: arXiv:2212.08073, section 4.1. The loss is `losses.soft_bradley_terry`.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean

import torch
from peft import PeftModel

from cai.data.split import split_by_group
from cai.errors import TrainError
from cai.modeling.frozen_cache import FrozenCache, frozen_blocks
from cai.modeling.lora import adapter_parameters
from cai.modeling.precision import matmul_dtype
from cai.progress import Progress
from cai.reward.preference_model import ADAPTER, PreferenceModel
from cai.seeds import rng
from cai.store import digest
from cai.train.agreement import evaluate
from cai.train.checkpoint import Checkpoints
from cai.train.comparison import Comparison
from cai.train.distributed import all_reduce_max
from cai.train.early_stopping import EarlyStopping
from cai.train.pair_loss import PairGradients
from cai.train.reward_config import RewardConfig as RewardConfig
from cai.train.sharding import clip_gradients, is_sharded, sum_gradients
from cai.train.signals import deferred_signals

MAX_PAIRS_OF_PROMPT = 64
"""In one step, which bounds its memory. Nine replies to a prompt, as in the paper, give 36."""
MAX_CACHE_BYTES = 1 << 30
"""Of the frozen blocks' outputs on the training rows; above it they are recomputed every epoch."""
FLOAT32_BYTES = 4
HARDWARE_SETTINGS = {"save_every", "shard", "gradient_checkpointing"}
"""May change between a kill and the next try: what is learnt is the same."""


def split_by_prompt(
    comparisons: Sequence[Comparison], share: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """(train, held out): all pairs of a prompt are on the same side."""
    return split_by_group(
        comparisons,
        share,
        lambda c: c.prompt,
        lambda prompt: rng(seed, "reward", "split", prompt).random(),
    )


def train(
    model: PreferenceModel,
    comparisons: Sequence[Comparison],
    config: RewardConfig,
    *,
    seed: int,
    progress: Progress,
    deciding: Sequence[Comparison] = (),
    checkpoints: Path | None = None,
) -> float:
    """Fit head and adapter, or head and model. Processes that torchrun started call it together.

    At SIGINT or SIGTERM the step is finished and saved first.

    Args:
        deciding: pairs whose log loss decides early stopping (`config.patience`); without any,
            all epochs are run.
        checkpoints: folder of the exact state, which a killed training resumes from; None: nothing
            is saved.

    Returns:
        Mean training loss of the last epoch that was run, nats a pair.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM arrived.
        TrainError: nothing to train on, or the loss is not a number.
        StoreError: the checkpoint is torn, or of other settings or other pairs.
    """
    if not comparisons:
        raise TrainError("reward: no labelled pair to train on")
    groups = trained_parameters(model)
    # foreach mixes the tensors of a group, which are all sharded or all not
    optimizer = torch.optim.AdamW(
        [{"params": group} for group in groups], lr=config.learning_rate, weight_decay=0.0
    )
    gradients = PairGradients(model, optimizer, config.labels)
    batches = batch_by_prompt(comparisons, config.batch_size)
    caches = _frozen_caches(model, comparisons, batches, config)
    total_steps = config.epochs * len(batches)
    parameters = [p for group in groups for p in group]
    best = EarlyStopping(parameters if config.patience is not None and deciding else [])
    saved = Checkpoints(
        checkpoints,
        [*parameters, *best.best_weights],
        optimizer,
        _digest(comparisons, config, seed),
    )
    start, state = saved.load()
    best.load_state(state)
    loss_sum = float(state.get("loss_sum") or 0)
    with deferred_signals() as signal:
        for step in range(start, total_steps):
            epoch, position = divmod(step, len(batches))
            if not position:
                loss_sum = 0.0
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (1 - step / total_steps)
            index = _order(len(batches), seed, epoch)[position]
            batch = [comparisons[i] for i in batches[index]]
            loss = gradients.accumulate(batch, caches[index])
            if not math.isfinite(loss):
                raise TrainError(
                    f"reward: the loss is {loss} at step {step}; lower reward.learning_rate"
                )
            sum_gradients(parameters)
            clip_gradients(groups, config.max_grad_norm)
            optimizer.step()
            loss_sum += loss
            progress(step + 1, total_steps)
            if position + 1 == len(batches) and best.parameters:
                epochs_since_best = best.age(epoch, _log_loss(model, deciding))
                if epochs_since_best >= (config.patience or 1):
                    break
            stopping = bool(all_reduce_max(float(signal.number is not None)))
            if stopping or (step + 1) % config.save_every == 0:
                tensors = [*parameters, *best.best_weights]
                saved.save(step + 1, tensors, {"loss_sum": loss_sum, **best.state()})
            if stopping:
                signal.reraise()
        if signal.number is not None:
            signal.reraise()
    best.restore()
    return loss_sum / len(batches)


@lru_cache(maxsize=1)
def _order(num_batches: int, seed: int, epoch: int) -> list[int]:
    """Indices of the batches in an epoch's order."""
    order = list(range(num_batches))
    rng(seed, "reward", "order", epoch).shuffle(order)
    return order


def trained_parameters(model: PreferenceModel) -> list[list[torch.nn.Parameter]]:
    """The head's, and the adapter's or the model's."""
    base = model.shared[0]
    if isinstance(base, PeftModel):
        return [[*model.head.parameters()], adapter_parameters(base, ADAPTER)]
    return [
        [*model.head.parameters()],
        [p for p in base.base_model.parameters() if p.requires_grad],
    ]


def _frozen_caches(
    model: PreferenceModel,
    comparisons: Sequence[Comparison],
    batches: Sequence[Sequence[int]],
    config: RewardConfig,
) -> list[FrozenCache]:
    """A cache of the frozen blocks' outputs per batch, filled in the first epoch.

    The caches are empty when there is one epoch, or when they would exceed MAX_CACHE_BYTES.
    """
    base = model.plain_base
    tokens = sum(_tokens(comparisons[i]) for batch in batches for i in batch)
    size = tokens * int(base.config.get_text_config().hidden_size) * FLOAT32_BYTES
    cached = config.epochs > 1 and size <= MAX_CACHE_BYTES and not is_sharded(base)
    blocks = frozen_blocks(base, config.num_trainable_layers) if cached else []
    return [FrozenCache(blocks) for _ in batches]


def _tokens(comparison: Comparison) -> int:
    return len(comparison.first) + len(comparison.second)


def _log_loss(model: PreferenceModel, comparisons: Sequence[Comparison]) -> float:
    return fmean(agreement.log_loss for agreement in evaluate(model, comparisons))


def batch_by_prompt(comparisons: Sequence[Comparison], size: int) -> list[list[int]]:
    """Indices of `comparisons` in batches of about `size`, all pairs of a prompt in one batch.

    Prompts whose rows are of like length are batched together. A prompt with more pairs than
    MAX_PAIRS_OF_PROMPT has several batches.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, comparison in enumerate(comparisons):
        groups[comparison.prompt].append(index)

    def mean_tokens(indices: list[int]) -> int:
        return sum(_tokens(comparisons[i]) for i in indices) // len(indices)

    batches: list[list[int]] = [[]]
    most = max(size, MAX_PAIRS_OF_PROMPT)
    parts = [
        indices[start : start + most]
        for indices in groups.values()
        for start in range(0, len(indices), most)
    ]
    for indices in sorted(parts, key=mean_tokens):
        if batches[-1] and len(batches[-1]) + len(indices) > size:
            batches.append([])
        batches[-1] += indices
    return batches


def _digest(comparisons: Sequence[Comparison], config: RewardConfig, seed: int) -> str:
    """Of what a training's state depends on besides the first weights."""
    settings = config.model_dump_json(exclude=HARDWARE_SETTINGS)
    parts = [
        part
        for c in comparisons
        for part in (
            f"{c.prompt} {c.p_first}",
            array("q", c.first).tobytes(),
            array("q", c.second).tobytes(),
        )
    ]
    return digest(settings, str(seed), str(matmul_dtype()), *parts)
