"""Training the preference model on soft labels (arXiv:2212.08073 section 4.1; loss: ppo_math.soft_bradley_terry)."""

from __future__ import annotations

import math
from collections import defaultdict
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
from cai.modeling.lora import parameters_of
from cai.progress import Progress
from cai.records import FrozenModel
from cai.reward.preference_model import ADAPTER, PreferenceModel
from cai.seeds import rng
from cai.train.losses import soft_bradley_terry


class RewardConfig(FrozenModel):
    """How the preference model is trained."""

    rank: int = Field(16, ge=1)
    layers: int | None = Field(None, ge=1)
    """Only the model's last so many blocks learn; None: all."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak; it falls linearly to zero."""
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(8, ge=1)
    """Pairs a step; all pairs of a prompt are in one step (arXiv:2203.02155 section 3.4), even where they are more."""
    own_share: float | None = Field(None, gt=0, lt=1)
    """Part of the pairs that are the run's own, where it is given `preferences` beside them: the side with too many is thinned.
    None: all of both."""
    labels: Literal["soft", "hard"] = "soft"
    """Probabilities as they are, or (as an ablation) 0 and 1 by the likelier side; ties stay one half."""
    held_out: float = Field(0.2, ge=0, lt=1)
    """Share of prompts whose pairs measure the model instead of training it."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many epochs without a lower log loss on held-out pairs, and keep the best epoch's weights; half of the
    held-out prompts decide this and the other half measure. None: all epochs, and all of them measure."""
    max_grad_norm: float = Field(1.0, gt=0)


@dataclass(frozen=True)
class Comparison:
    """Token rows of two replies to one prompt, and P(first beats second)."""

    prompt: str
    """What the replies answer, by its words alone: everybody's verdicts on a prompt are on one side of a split."""
    first: list[int]
    second: list[int]
    p_first: float
    source: str = ""
    """Where the verdict is from."""


def split_by_prompt(
    comparisons: Sequence[Comparison], share: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """(train, held out): all pairs of a prompt on one side."""
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
    """Fit head and adapter; returns the mean training loss of the last epoch that was run, nats a pair.

    `deciding`: the pairs whose log loss decides with `config.patience`; without any, every epoch is run.

    Raises:
        TrainError: nothing to train on, or the loss is not a number.
    """
    if not comparisons:
        raise TrainError("reward: no labelled pair to train on")
    learnt = [*model.head.parameters(), *parameters_of(model.shared[0], ADAPTER)]
    optimiser = torch.optim.AdamW(learnt, lr=config.learning_rate, weight_decay=0.0)
    batches = batch_by_prompt(comparisons, config.batch_size)
    steps = config.epochs * len(batches)
    below = _below(model, comparisons, batches, config)
    step, losses = 0, [0.0]
    best = EarlyStopping(learnt)
    for epoch in range(config.epochs):
        order = list(range(len(batches)))
        rng(seed, "reward", "order", epoch).shuffle(order)
        losses = []
        for at in order:
            batch = [comparisons[i] for i in batches[at]]
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * (1 - step / steps)
            loss = pair_loss(model, batch, config.labels, below[at])
            if not torch.isfinite(loss):
                raise TrainError(
                    f"reward: the loss is {float(loss)} at step {step}; lower reward.learning_rate"
                )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learnt, config.max_grad_norm)
            optimiser.step()
            losses.append(float(loss.detach()))
            step += 1
            progress(step, steps)
        if (
            config.patience is not None
            and deciding
            and best.age(epoch, _log_loss(model, deciding)) >= config.patience
        ):
            break
    best.restore()
    return sum(losses) / len(losses)


KEPT_BYTES = 1 << 30
"""Of what frozen blocks made of the training rows: beyond that they are computed anew each time."""


def _below(
    model: PreferenceModel,
    comparisons: Sequence[Comparison],
    batches: Sequence[Sequence[int]],
    config: RewardConfig,
) -> list[FrozenCache]:
    """Per batch, what the blocks that do not learn make of it, computed in the first epoch and kept for the others."""
    base = model.shared[0].get_base_model()
    width = sum(
        len(row)
        for batch in batches
        for i in batch
        for row in (comparisons[i].first, comparisons[i].second)
    )
    small = width * int(base.config.hidden_size) * 4 <= KEPT_BYTES
    blocks = frozen_blocks(base, config.layers) if config.epochs > 1 and small else []
    return [FrozenCache(blocks) for _ in batches]


class EarlyStopping:
    """The weights of the epoch with the lowest loss so far."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters, self.loss, self.epoch = parameters, math.inf, -1
        self.kept: list[Tensor] = []

    def age(self, epoch: int, loss: float) -> int:
        """Epochs since the best one; 0 when this is it, whose weights are then kept."""
        if loss < self.loss:
            self.loss, self.epoch, self.kept = (
                loss,
                epoch,
                [p.detach().clone() for p in self.parameters],
            )
        return epoch - self.epoch

    def restore(self) -> None:
        """Put the kept weights back; nothing happens when none were kept."""
        for parameter, kept in zip(self.parameters, self.kept, strict=False):
            parameter.data.copy_(kept)


def _log_loss(model: PreferenceModel, comparisons: Sequence[Comparison]) -> float:
    return fmean(found.log_loss for found in evaluate(model, comparisons))


def batch_by_prompt(comparisons: Sequence[Comparison], size: int) -> list[list[int]]:
    """Places of comparisons in batches of about `size`, a prompt's together, prompts of like length together."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, comparison in enumerate(comparisons):
        groups[comparison.prompt].append(place)

    def tokens(places: list[int]) -> int:
        return sum(len(comparisons[i].first) + len(comparisons[i].second) for i in places) // len(
            places
        )

    batches: list[list[int]] = [[]]
    for places in sorted(groups.values(), key=tokens):
        if batches[-1] and len(batches[-1]) + len(places) > size:
            batches.append([])
        batches[-1] += places
    return batches


def pair_loss(
    model: PreferenceModel,
    batch: Sequence[Comparison],
    labels: Literal["soft", "hard"] = "soft",
    below: FrozenCache | None = None,
) -> Tensor:
    """Mean soft Bradley-Terry loss of a batch. A reply that several pairs share goes through the model once."""
    rows = list(dict.fromkeys(tuple(row) for c in batch for row in (c.first, c.second)))
    place = {row: i for i, row in enumerate(rows)}
    with (below or FrozenCache([])).reuse():
        scores_R = model.raw(rows)
    first_B = scores_R[[place[tuple(c.first)] for c in batch]]
    second_B = scores_R[[place[tuple(c.second)] for c in batch]]
    p_B = torch.tensor([c.p_first for c in batch], device=scores_R.device)
    return soft_bradley_terry(
        first_B, second_B, p_B if labels == "soft" else (torch.sign(p_B - 0.5) + 1) / 2
    )


@dataclass(frozen=True)
class Agreement:
    """How one comparison came out: `agrees` is None when the label itself is undecided (exactly 0.5)."""

    prompt: str
    source: str
    agrees: float | None
    log_loss: float
    """Cross-entropy with the soft label, nats."""


def evaluate(model: PreferenceModel, comparisons: Sequence[Comparison]) -> list[Agreement]:
    """Held-out agreement with the labels, one entry per comparison."""
    if not comparisons:
        return []
    gain = model.gain or 1.0
    first = [s / gain for s in model.score([c.first for c in comparisons])]
    second = [s / gain for s in model.score([c.second for c in comparisons])]
    found = []
    for c, a, b in zip(comparisons, first, second, strict=True):
        loss = soft_bradley_terry(torch.tensor([a]), torch.tensor([b]), torch.tensor([c.p_first]))
        agrees = None if c.p_first == 0.5 else float((a > b) == (c.p_first > 0.5))
        found.append(Agreement(c.prompt, c.source, agrees, float(loss)))
    return found
