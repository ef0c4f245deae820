"""Gated feed-forward layers that keep half as much for the way back.

down(act(gate(x)) * up(x)) keeps four wide tensors: gate, act(gate), up and their product. Two of them are quickly made of the
other two: these are not kept but made again when they are asked for, to the same last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from cai.modeling.skinny_linear import SkinnyLinear

PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")
Act = Callable[[Tensor], Tensor]


class GatedProduct(torch.autograd.Function):
    """act(gate) * up, of which only gate and up are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: Act) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return act(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            at = gate.detach().requires_grad_()
            made = ctx.act(at)
        [dgate] = torch.autograd.grad(made, at, dy * up)
        return dgate, dy * made.detach(), None


class RecomputedGatedMLP(nn.Module):
    """What is put before a model's own class of such layers."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        if not (torch.is_grad_enabled() and gate.requires_grad and up.requires_grad):
            plain: Tensor = self.down_proj(self.act_fn(gate) * up)
            return plain
        product: Tensor = GatedProduct.apply(gate, up, self.act_fn)  # type: ignore[no-untyped-call]
        place, gate, up = product.untyped_storage().data_ptr(), gate.detach(), up.detach()

        def note(kept: Tensor) -> Any:
            same = kept.untyped_storage().data_ptr() == place
            return (kept.shape, kept.stride(), kept.storage_offset()) if same else kept

        def made(kept: Any) -> Tensor:
            return kept if isinstance(kept, Tensor) else torch.as_strided(self.act_fn(gate).mul_(up), *kept)

        with saved_tensors_hooks(note, made):
            found: Tensor = self.down_proj(product)
        return found


@torch.no_grad()
def recompute_gated_mlps(model: nn.Module) -> None:
    """Have the model's gated layers keep less. Layers that make anything else of the same parts are left as they are."""
    known: dict[type[nn.Module], type[nn.Module]] = {}
    for module in model.modules():
        kind = type(module)
        if kind not in known:
            known[kind] = type(f"Lean{kind.__name__}", (RecomputedGatedMLP, kind), {}) if _same(module) else kind
        if known[kind] is not kind:
            module.__class__ = known[kind]


def _same(module: Any) -> bool:
    """Whether the module is such a layer and nothing more: tried on a few numbers."""
    if not all(hasattr(module, part) for part in PARTS) or type(module.gate_proj) not in (nn.Linear, SkinnyLinear):
        return False
    weight = module.gate_proj.weight
    x_NI = torch.linspace(-100, 100, 3 * weight.shape[1], dtype=weight.dtype, device=weight.device).view(3, -1)
    apart = module.act_fn(x_NI).data_ptr() != x_NI.data_ptr()
    return apart and torch.equal(RecomputedGatedMLP.forward(module, x_NI), module(x_NI))
