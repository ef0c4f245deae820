"""Training of the preference model on soft labels.

Source: arXiv:2212.08073, section 4.1. The loss is `losses.soft_bradley_terry`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from cai.data.split import split_by_group
from cai.errors import TrainError
from cai.modeling.frozen_cache import FrozenCache, frozen_blocks
from cai.modeling.lora import adapter_parameters
from cai.modeling.out_of_memory import with_smaller_batches
from cai.progress import Progress
from cai.records import FrozenModel
from cai.reward.preference_model import ADAPTER, PreferenceModel
from cai.seeds import rng
from cai.train.early_stopping import EarlyStopping
from cai.train.losses import soft_bradley_terry

MAX_PAIRS_OF_PROMPT = 64
"""In one step, which bounds its memory. Nine replies to a prompt, as in the paper, give 36."""
MAX_CACHE_BYTES = 1 << 30
"""Of the frozen blocks' outputs on the training rows; above it they are recomputed every epoch."""
FLOAT32_BYTES = 4


class RewardConfig(FrozenModel):
    """How the preference model is trained."""

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


@dataclass(frozen=True)
class Comparison:
    """Token rows of two replies to one prompt, and P(first beats second)."""

    prompt: str
    """`cai.data.filters.prompt_key`: all labels of a prompt are on one side of a split."""
    first: list[int]
    second: list[int]
    p_first: float
    source: str = ""
    """Where the label comes from."""


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
) -> float:
    """Fit head and adapter.

    Args:
        deciding: pairs whose log loss decides early stopping (`config.patience`); without any,
            all epochs are run.

    Returns:
        Mean training loss of the last epoch that was run, nats a pair.

    Raises:
        TrainError: nothing to train on, or the loss is not a number.
    """
    if not comparisons:
        raise TrainError("reward: no labelled pair to train on")
    parameters = _trained_parameters(model)
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    gradients = PairGradients(model, optimizer, config.labels)
    batches = batch_by_prompt(comparisons, config.batch_size)
    caches = _frozen_caches(model, comparisons, batches, config)
    total_steps = config.epochs * len(batches)
    step = 0
    losses = [0.0]
    best = EarlyStopping(parameters)
    for epoch in range(config.epochs):
        order = list(range(len(batches)))
        rng(seed, "reward", "order", epoch).shuffle(order)
        losses = []
        for index in order:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (1 - step / total_steps)
            batch = [comparisons[i] for i in batches[index]]
            loss = gradients.accumulate(batch, caches[index])
            if not math.isfinite(loss):
                raise TrainError(
                    f"reward: the loss is {loss} at step {step}; lower reward.learning_rate"
                )
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
            losses.append(loss)
            step += 1
            progress(step, total_steps)
        if config.patience is not None and deciding:
            epochs_since_best = best.age(epoch, _log_loss(model, deciding))
            if epochs_since_best >= config.patience:
                break
    best.restore()
    return sum(losses) / len(losses)


def _trained_parameters(model: PreferenceModel) -> list[torch.nn.Parameter]:
    return [*model.head.parameters(), *adapter_parameters(model.shared[0], ADAPTER)]


class PairGradients:
    """Gradients of a batch's loss: at once, or some pairs at a time once memory ran out."""

    def __init__(
        self,
        model: PreferenceModel,
        optimizer: torch.optim.Optimizer,
        labels: Literal["soft", "hard"],
    ) -> None:
        self.model, self.optimizer, self.labels = model, optimizer, labels
        self.most_pairs: int | None = None
        """Pairs of a forward pass; None: all of a batch."""

    def accumulate(self, batch: Sequence[Comparison], cache: FrozenCache) -> float:
        """Leave the gradients of the batch's loss, from zero, in the parameters; returns the loss.

        Raises:
            TrainError: one pair does not fit into memory.
        """
        weights = prompt_weights(batch)

        def backward(size: int) -> float:
            self.optimizer.zero_grad()
            total = 0.0
            for start in range(0, len(batch), size):
                part = slice(start, start + size)
                share = sum(weights[part]) / sum(weights)
                outputs = cache if size >= len(batch) else FrozenCache([])
                loss = share * pair_loss(
                    self.model, batch[part], self.labels, outputs, weights[part]
                )
                loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
            return total

        size = min(len(batch), self.most_pairs or len(batch))
        loss, fitting = with_smaller_batches("reward: pairs", size, backward, TrainError)
        if fitting < size:
            self.most_pairs = fitting
            cache.outputs.clear()  # of a pass that was cut short, maybe
        return loss


def prompt_weights(batch: Sequence[Comparison]) -> list[float]:
    """Of each pair: all prompts of the batch weigh the same."""
    pairs_of = Counter(comparison.prompt for comparison in batch)
    return [1 / pairs_of[comparison.prompt] for comparison in batch]


def _frozen_caches(
    model: PreferenceModel,
    comparisons: Sequence[Comparison],
    batches: Sequence[Sequence[int]],
    config: RewardConfig,
) -> list[FrozenCache]:
    """A cache of the frozen blocks' outputs per batch, filled in the first epoch.

    The caches are empty when there is one epoch, or when they would exceed MAX_CACHE_BYTES.
    """
    base = model.shared[0].get_base_model()
    tokens = sum(_tokens(comparisons[i]) for batch in batches for i in batch)
    size = tokens * int(base.config.get_text_config().hidden_size) * FLOAT32_BYTES
    cached = config.epochs > 1 and size <= MAX_CACHE_BYTES
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


def pair_loss(
    model: PreferenceModel,
    batch: Sequence[Comparison],
    labels: Literal["soft", "hard"] = "soft",
    cache: FrozenCache | None = None,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Soft Bradley-Terry loss of a batch, nats a pair: the mean over the pairs of each prompt, then
    over prompts.

    So a pair of K replies to a prompt has the weight 1 / C(K, 2) of arXiv:2203.02155, eq. 1. A
    reply that several pairs share goes through the model once.

    Args:
        weights: of the pairs, where they are a part of a batch; None: `prompt_weights(batch)`.
    """
    rows = list(dict.fromkeys(tuple(row) for c in batch for row in (c.first, c.second)))
    index_of = {row: i for i, row in enumerate(rows)}
    with (cache or FrozenCache([])).reuse():
        scores_R = model.unnormalized_scores(rows)
    first_B = scores_R[[index_of[tuple(c.first)] for c in batch]]
    second_B = scores_R[[index_of[tuple(c.second)] for c in batch]]
    p_B = torch.tensor([c.p_first for c in batch], device=scores_R.device)
    if labels == "hard":
        p_B = (torch.sign(p_B - 0.5) + 1) / 2
    weight_B = torch.tensor(weights or prompt_weights(batch), device=scores_R.device)
    return soft_bradley_terry(first_B, second_B, p_B, weight_B)


@dataclass(frozen=True)
class Agreement:
    """The model's agreement with the label of one comparison."""

    prompt: str
    source: str
    agrees: float | None
    """1 or 0; 0.5 when the model's scores are equal; None when the label is exactly 0.5, or the
    replies are the same."""
    log_loss: float
    """Cross-entropy with the soft label, nats."""


def evaluate(model: PreferenceModel, comparisons: Sequence[Comparison]) -> list[Agreement]:
    """Agreement with the labels, one entry per comparison.

    The loss is that of scores before normalisation, on which the model was trained.
    """
    if not comparisons:
        return []
    gain = model.gain or 1.0
    first_scores = [s / gain for s in model.score([c.first for c in comparisons])]
    second_scores = [s / gain for s in model.score([c.second for c in comparisons])]
    agreements = []
    for comparison, first, second in zip(comparisons, first_scores, second_scores, strict=True):
        p_first = comparison.p_first
        loss = soft_bradley_terry(
            torch.tensor([first]), torch.tensor([second]), torch.tensor([p_first])
        )
        agrees: float | None = float((first > second) == (p_first > 0.5))
        if p_first == 0.5 or comparison.first == comparison.second:
            agrees = None
        elif first == second:
            agrees = 0.5
        agreements.append(Agreement(comparison.prompt, comparison.source, agrees, float(loss)))
    return agreements
