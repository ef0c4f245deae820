"""Gated MLPs (SwiGLU) with activation recomputation: half of the saved activations, the same bits.

down(act(gate(x)) * up(x)) saves four wide tensors for the backward pass: gate, act(gate), up and
their product. Two of them are cheap to compute from the other two: they are not saved, but
recomputed in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from cai.modeling.skinny_linear import SkinnyLinear

SUBMODULES = ("gate_proj", "up_proj", "down_proj", "act_fn")
Activation = Callable[[Tensor], Tensor]


class GatedProduct(torch.autograd.Function):
    """act(gate) * up, of which only gate and up are saved."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: Activation) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return act(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            gate_leaf = gate.detach().requires_grad_()
            activated = ctx.act(gate_leaf)
        [dgate] = torch.autograd.grad(activated, gate_leaf, dy * up)
        return dgate, dy * activated.detach(), None


class RecomputedGatedMLP(nn.Module):
    """The recomputing forward pass, mixed in before a model's own MLP class."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module
    block_is_recomputed: bool = False
    """Whether all of the block is computed again (`activation_checkpointing.py`). The hooks below
    would then keep gate and up, which that drops."""

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        if not (torch.is_grad_enabled() and gate.requires_grad and up.requires_grad):
            plain: Tensor = self.down_proj(self.act_fn(gate) * up)
            return plain
        product: Tensor = GatedProduct.apply(gate, up, self.act_fn)  # type: ignore[no-untyped-call]
        if self.block_is_recomputed:
            recomputed: Tensor = self.down_proj(product)
            return recomputed
        product_storage = product.untyped_storage().data_ptr()
        gate, up = gate.detach(), up.detach()

        def pack(saved: Tensor) -> Any:
            if saved.untyped_storage().data_ptr() != product_storage:
                return saved
            return saved.shape, saved.stride(), saved.storage_offset()

        def unpack(packed: Any) -> Tensor:
            if isinstance(packed, Tensor):
                return packed
            return torch.as_strided(self.act_fn(gate).mul_(up), *packed)

        with saved_tensors_hooks(pack, unpack):
            output: Tensor = self.down_proj(product)
        return output


@torch.no_grad()
def recompute_gated_mlps(model: nn.Module) -> None:
    """Make the model's gated MLPs recompute what they can.

    Layers that combine the same submodules differently stay as they are.
    """
    class_of: dict[type[nn.Module], type[nn.Module]] = {}
    for module in model.modules():
        original = type(module)
        if original not in class_of:
            class_of[original] = original
            if _is_gated_mlp(module):
                name = f"Recomputed{original.__name__}"
                class_of[original] = type(name, (RecomputedGatedMLP, original), {})
        if class_of[original] is not original:
            module.__class__ = class_of[original]


def _is_gated_mlp(module: Any) -> bool:
    """Whether the module computes exactly down(act(gate(x)) * up(x)): tried on a few numbers."""
    if not all(hasattr(module, name) for name in SUBMODULES):
        return False
    if type(module.gate_proj) not in (nn.Linear, SkinnyLinear):
        return False
    weight = module.gate_proj.weight
    x_NI = torch.linspace(
        -100, 100, 3 * weight.shape[1], dtype=weight.dtype, device=weight.device
    ).view(3, -1)
    if module.act_fn(x_NI).data_ptr() == x_NI.data_ptr():
        return False  # an activation in place would overwrite the saved gate
    return torch.equal(RecomputedGatedMLP.forward(module, x_NI), module(x_NI))
