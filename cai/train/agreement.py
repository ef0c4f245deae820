"""How well the preference model predicts labels, in one process or in several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cai.reward.preference_model import PreferenceModel
from cai.train.comparison import Comparison
from cai.train.distributed import all_gather_rows, local_share, world_size
from cai.train.losses import soft_bradley_terry


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
    first_scores = [s / gain for s in shared_scores(model, [c.first for c in comparisons])]
    second_scores = [s / gain for s in shared_scores(model, [c.second for c in comparisons])]
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


def shared_scores(model: PreferenceModel, rows: Sequence[Sequence[int]]) -> list[float]:
    """`model.score(rows)`, to which each process contributes its share; the same in all of them."""
    if world_size() == 1 or not rows:
        return model.score(rows)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    shares = [local_share(order, process) for process in range(world_size())]
    local = [rows[index] for index in local_share(order)]
    # as many passes in each process, for all take part in each pass of a sharded model
    padded = [*local, *[rows[0]] * (len(shares[0]) - len(local))]
    scores = torch.tensor(model.score(padded)[: len(local)], dtype=torch.float64)
    return [float(score) for score in all_gather_rows(scores, shares)]
