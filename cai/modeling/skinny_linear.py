"""Linear layers for skinny GEMMs: a decoding step multiplies one row for each sequence.

On a CPU the product of so few rows is faster with the weights on the left: x W' = (W x')'. It is
computed in panels of eight rows. Rows that do not fill a panel, as sequences finish and leave the
batch, are slower one by one than a whole panel: 15 take twice the time of 16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

MAX_ROWS = 256
"""From more rows on, the usual order is at least as fast."""
PANEL_ROWS = 8
MIN_PADDED_ROWS = 12
"""From this number of rows on, empty rows fill the last panel."""


class SkinnyLinear(nn.Linear):
    """A linear layer that multiplies in the order that suits the number of rows."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // self.in_features
        if rows > MAX_ROWS or input.dtype != torch.float32:
            return super().forward(input)
        input_NI = input.reshape(rows, self.in_features)
        if rows >= MIN_PADDED_ROWS and rows % PANEL_ROWS:
            input_NI = pad(input_NI, (0, 0, 0, -rows % PANEL_ROWS))
        output_NO = (self.weight @ input_NI.t()).t()[:rows]
        if self.bias is not None:
            output_NO = output_NO + self.bias
        return output_NO.reshape(*input.shape[:-1], self.out_features)


def use_skinny_linears(model: nn.Module) -> None:
    """Make the plain linear layers of a float32 model on a CPU skinny; others stay as they are."""
    for module in model.modules():
        if type(module) is not nn.Linear:
            continue
        if module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.__class__ = SkinnyLinear
