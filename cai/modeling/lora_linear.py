"""An adapter's linear layer, y = x W' + b + s (x A') B', in as few passes over its outputs as there can be.

peft's own makes the second product, scales it and adds it in three tensors of the output's size; here it is added in place, and
the way back does the same. Where products run in another format than the weights', peft's is used.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def product(x: Tensor, base: nn.Linear, a_RI: Tensor, b_OR: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """(y, x as rows, x A'), without gradients."""
    x_NI = x.reshape(-1, x.shape[-1])
    low_NR = x_NI @ a_RI.T
    y = base(x)  # in its own layout and rounding: a fresh adapter must change nothing
    return y.reshape(len(x_NI), -1).addmm_(low_NR, b_OR.T, alpha=scale).view_as(y), x_NI, low_NR


class Product(torch.autograd.Function):
    """(..., in) -> (..., out). Gradients reach x, A and B; the linear layer `base` is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: nn.Linear, a_RI: Tensor, b_OR: Tensor, scale: float) -> Tensor:
        y, x_NI, low_NR = product(x, base, a_RI, b_OR, scale)
        ctx.save_for_backward(x_NI, low_NR, base.weight, a_RI, b_OR)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None]:
        x_NI, low_NR, weight_OI, a_RI, b_OR = ctx.saved_tensors
        dy_NO = dy.reshape(-1, dy.shape[-1])
        back_NR = (dy_NO @ b_OR).mul_(ctx.scale)
        dx_NI = (dy_NO @ weight_OI).addmm_(back_NR, a_RI) if ctx.needs_input_grad[0] else None
        dx = None if dx_NI is None else dx_NI.view(*dy.shape[:-1], -1)
        return dx, None, back_NR.T @ x_NI, (dy_NO.T @ low_NR).mul_(ctx.scale), None


class Linear(lora.Linear):  # type: ignore[misc]
    """peft's layer with `Product` in its forward pass: one adapter without dropout at a time, as adapters.py has them."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base = self.get_base_layer()
        if self.disable_adapters or torch.is_autocast_enabled(x.device.type) or x.dtype != base.weight.dtype:
            whole: Tensor = super().forward(x, *args, **kwargs)
            return whole
        active = [name for name in self.active_adapters if name in self.lora_A]
        if not active:
            plain: Tensor = base(x)
            return plain
        [name] = active
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        if not torch.is_grad_enabled():
            return product(x, base, a, b, self.scaling[name])[0]
        y: Tensor = Product.apply(x, base, a, b, self.scaling[name])  # type: ignore[no-untyped-call]
        return y
