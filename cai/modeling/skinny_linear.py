"""Linear layers that are quick for few rows, which is what drawing a token for each reply of a batch asks of them.

A step of generation multiplies as many rows as replies are drawn together. On a CPU the product of so few rows is
faster the other way round, with the weights on the left: x W' = (W x')'. It is made in panels of eight rows. The rows
over, as replies end and leave the batch, are slower one by one than a whole panel: 15 take twice the time of 16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

ROWS = 256
"""From more rows on, the usual order is at least as fast."""
PANEL = 8
PADDED = 12
"""From so many rows on, empty ones fill the last panel."""


class SkinnyLinear(nn.Linear):
    """A linear layer, in the order that suits the number of rows."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // self.in_features
        if rows > ROWS or input.dtype != torch.float32:
            return super().forward(input)
        input_NI = input.reshape(rows, self.in_features)
        if rows >= PADDED and rows % PANEL:
            input_NI = pad(input_NI, (0, 0, 0, -rows % PANEL))
        output_NO = (self.weight @ input_NI.t()).t()[:rows]
        if self.bias is not None:
            output_NO = output_NO + self.bias
        return output_NO.reshape(*input.shape[:-1], self.out_features)


def use_skinny_linears(model: nn.Module) -> None:
    """Make the plain linear layers of a float32 model on a CPU quick for few rows; others stay as they are."""
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.__class__ = SkinnyLinear
