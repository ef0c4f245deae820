"""Early stopping: the weights of the best epoch are restored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch


class EarlyStopping:
    """The weights of the epoch with the lowest loss so far."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.best_loss = math.inf
        self.best_epoch = -1
        self.best_weights = [p.detach().clone() for p in parameters]

    def age(self, epoch: int, loss: float) -> int:
        """Epochs since the best one; 0 when `epoch` is the best, and its weights are then saved."""
        if loss < self.best_loss:
            self.best_loss = loss
            self.best_epoch = epoch
            self.best_weights = [p.detach().clone() for p in self.parameters]
        return epoch - self.best_epoch

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the best epoch's weights; nothing happens when `age` was never called."""
        if self.best_epoch < 0:
            return
        for parameter, weights in zip(self.parameters, self.best_weights, strict=True):
            parameter.copy_(weights)

    def state(self) -> dict[str, float | int | None]:
        """What a checkpoint has to hold besides `best_weights`."""
        return {
            "best_loss": self.best_loss if self.best_epoch >= 0 else None,
            "best_epoch": self.best_epoch,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; an empty one changes nothing."""
        loss, epoch = state.get("best_loss"), state.get("best_epoch")
        self.best_loss = math.inf if loss is None else float(loss)
        self.best_epoch = -1 if epoch is None else int(epoch)
