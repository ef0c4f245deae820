"""Linear layers that are quick for few rows, which is what drawing a token for each reply of a batch asks of them.

A step of generation multiplies as many rows as replies are drawn together. On a CPU the product of so few rows is
faster the other way round, with the weights on the left: x W' = (W x')'.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ROWS = 256
"""From more rows on, the usual order is at least as fast."""


class ThinLinear(nn.Linear):
    """A linear layer, in the order that suits the number of rows."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // self.in_features
        if rows > ROWS or input.dtype != torch.float32:
            return super().forward(input)
        product_ON = self.weight @ input.reshape(rows, self.in_features).t()
        output_NO = product_ON.t() if self.bias is None else product_ON.t() + self.bias
        return output_NO.reshape(*input.shape[:-1], self.out_features)


def thin(model: nn.Module) -> None:
    """Make the plain linear layers of a float32 model on a CPU quick for few rows; others stay as they are."""
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.__class__ = ThinLinear
