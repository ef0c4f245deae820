"""A LoRA linear layer, y = x W' + b + s (x A') B', with few passes over its outputs.

peft's layer computes the second product, scales it and adds it in three tensors of the output's
size. Here it is added in place, and the backward pass does the same. Where autocast or the input's
format differs from the weights' format, peft's forward pass is used.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def lora_product(
    x: Tensor, base: nn.Linear, a_RI: Tensor, b_OR: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, x as rows, x A'), without gradients."""
    x_NI = x.reshape(-1, x.shape[-1])
    low_rank_NR = x_NI @ a_RI.T
    y = base(x)  # with the base's own layout and rounding: a fresh adapter must change nothing
    y_NO = y.reshape(len(x_NI), -1).addmm_(low_rank_NR, b_OR.T, alpha=scale)
    # no view, which autograd would keep models from adding to in place
    return torch.ops.aten._unsafe_view(y_NO, y.shape), x_NI, low_rank_NR


class LoraProduct(torch.autograd.Function):
    """(..., in) -> (..., out). Gradients reach x, A and B; the linear layer `base` is frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, base: nn.Linear, a_RI: Tensor, b_OR: Tensor, scale: float
    ) -> Tensor:
        y, x_NI, low_rank_NR = lora_product(x, base, a_RI, b_OR, scale)
        ctx.save_for_backward(x_NI, low_rank_NR, base.weight, a_RI, b_OR)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None]:
        x_NI, low_rank_NR, weight_OI, a_RI, b_OR = ctx.saved_tensors
        dy_NO = dy.reshape(-1, dy.shape[-1])
        d_low_rank_NR = (dy_NO @ b_OR).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx_NI = (dy_NO @ weight_OI).addmm_(d_low_rank_NR, a_RI)
            dx = dx_NI.view(*dy.shape[:-1], -1)
        da_RI = d_low_rank_NR.T @ x_NI
        db_OR = (dy_NO.T @ low_rank_NR).mul_(ctx.scale)
        return dx, None, da_RI, db_OR, None


class LoraLinear(lora.Linear):  # type: ignore[misc]
    """peft's layer with `LoraProduct` as forward pass: at most one active adapter, no dropout."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base = self.get_base_layer()
        is_autocast = torch.is_autocast_enabled(x.device.type)
        if self.disable_adapters or is_autocast or x.dtype != base.weight.dtype:
            peft_output: Tensor = super().forward(x, *args, **kwargs)
            return peft_output
        active = [name for name in self.active_adapters if name in self.lora_A]
        if not active:
            base_output: Tensor = base(x)
            return base_output
        [name] = active
        a, b, scale = self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
        if not torch.is_grad_enabled():
            return lora_product(x, base, a, b, scale)[0]
        y: Tensor = LoraProduct.apply(x, base, a, b, scale)  # type: ignore[no-untyped-call]
        return y
