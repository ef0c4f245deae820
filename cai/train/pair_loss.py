"""The preference model's loss on a batch, computed by one process or by several together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from cai.errors import TrainError
from cai.modeling.frozen_cache import FrozenCache
from cai.modeling.out_of_memory import with_smaller_batches
from cai.reward.preference_model import PreferenceModel
from cai.train.comparison import Comparison
from cai.train.distributed import all_gather_rows, local_share, rank, world_size
from cai.train.losses import soft_bradley_terry
from cai.train.sharding import same_batches


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
            TrainError: one pair does not fit into memory; or there are several processes, which
                have to make the same passes.
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

        if world_size() > 1:
            with same_batches("reward: out of memory: lower reward.batch_size"):
                return backward(len(batch))
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
    reply that several pairs share goes through the model once. Each process computes its share of
    the replies; the loss is the same in all, and the sum of their gradients is that of one process.

    Args:
        weights: of the pairs, where they are a part of a batch; None: `prompt_weights(batch)`.
    """
    rows = list(dict.fromkeys(tuple(row) for c in batch for row in (c.first, c.second)))
    index_of = {row: i for i, row in enumerate(rows)}
    scores_R = _scores(model, rows, cache or FrozenCache([]))
    first_B = scores_R[[index_of[tuple(c.first)] for c in batch]]
    second_B = scores_R[[index_of[tuple(c.second)] for c in batch]]
    p_B = torch.tensor([c.p_first for c in batch], device=scores_R.device)
    if labels == "hard":
        p_B = (torch.sign(p_B - 0.5) + 1) / 2
    weight_B = torch.tensor(weights or prompt_weights(batch), device=scores_R.device)
    return soft_bradley_terry(first_B, second_B, p_B, weight_B)


def _scores(model: PreferenceModel, rows: Sequence[tuple[int, ...]], cache: FrozenCache) -> Tensor:
    """(R,) scores of all rows, those of other processes without a gradient."""
    if world_size() == 1:
        with cache.reuse():
            return model.unnormalized_scores(rows)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    shares = [local_share(order, process) for process in range(world_size())]
    share = shares[rank()]
    with cache.reuse():  # a process without a row takes part all the same
        local = model.unnormalized_scores([rows[index] for index in share or order[:1]])
    scores_R = all_gather_rows(local.detach()[: len(share)], shares)
    if not share:
        return scores_R + 0 * local.sum()
    return scores_R.index_put((torch.tensor(share, device=local.device),), local)
