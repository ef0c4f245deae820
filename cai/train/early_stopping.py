"""The best weights so far, by a loss on data that is not learnt from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class EarlyStopping:
    """The weights of the epoch with the lowest loss so far."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.best_loss = math.inf
        self.best_epoch = -1
        self.best_weights: list[Tensor] = []

    def age(self, epoch: int, loss: float) -> int:
        """Epochs since the best one; 0 when `epoch` is the best, and its weights are then saved."""
        if loss < self.best_loss:
            self.best_loss = loss
            self.best_epoch = epoch
            self.best_weights = [p.detach().clone() for p in self.parameters]
        return epoch - self.best_epoch

    def restore(self) -> None:
        """Restore the best epoch's weights; nothing happens when `age` was never called."""
        for parameter, weights in zip(self.parameters, self.best_weights, strict=False):
            parameter.data.copy_(weights)
