"""Gated MLPs with recomputed activations: the same bits, half of the saved tensors."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, PreTrainedModel

from cai.modeling.gated_mlp import RecomputedGatedMLP, recompute_gated_mlps
from cai.modeling.lora import adapter_parameters, with_adapter
from cai.modeling.skinny_linear import use_skinny_linears

IDS = torch.arange(60).view(3, 20)


def load(folder: Path, *, recompute: bool, adapter: bool, skinny: bool = False) -> nn.Module:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    if skinny:
        use_skinny_linears(model)
    if recompute:
        recompute_gated_mlps(model)
    if not adapter:
        return model
    torch.manual_seed(0)
    wrapped = with_adapter(model, "policy", 4)
    for parameter in adapter_parameters(wrapped, "policy"):
        nn.init.normal_(parameter, std=0.1)
    return wrapped


def gradients(model: nn.Module) -> tuple[Tensor, list[Tensor]]:
    loss: Tensor = model(IDS).logits.square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("skinny", [False, True])
def test_gradients_are_equal_bit_for_bit(tiny_model: Path, adapter: bool, skinny: bool) -> None:
    """Of weights and adapters, with plain linear layers and with skinny ones, whose outputs have
    another memory layout.
    """
    plain, recomputed = (
        gradients(load(tiny_model, recompute=recompute, adapter=adapter, skinny=skinny))
        for recompute in (False, True)
    )
    assert torch.equal(plain[0], recomputed[0])
    assert len(plain[1]) == len(recomputed[1]) > 10
    assert all(torch.equal(a, b) for a, b in zip(plain[1], recomputed[1], strict=True))


def count_saved(layer: nn.Module, x: Tensor) -> int:
    """Numbers saved for the backward pass, without weights and the layer's input."""
    ignored = {tensor.untyped_storage().data_ptr() for tensor in (x, *layer.parameters())}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage().data_ptr()
        if storage not in ignored:
            saved[storage] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(x)
    assert out.requires_grad
    return sum(tensor.numel() for tensor in saved.values())


def test_half_of_the_wide_tensors_are_saved(tiny_model: Path) -> None:
    """Of gate, act(gate), up and their product, the first and the third."""
    plain, recomputed = (
        load(tiny_model, recompute=recompute, adapter=False) for recompute in (False, True)
    )
    layers = [model.model.layers[0].mlp for model in (plain, recomputed)]  # type: ignore[union-attr]
    width = layers[0].gate_proj.out_features
    x = torch.randn(5, layers[0].gate_proj.in_features)
    assert [count_saved(layer, x) for layer in layers] == [4 * 5 * width, 2 * 5 * width]


class Capped(nn.Module):
    """The same submodules in another formula."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(4, 8)
        self.up_proj = nn.Linear(4, 8)
        self.down_proj = nn.Linear(8, 4)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x).clamp(max=7)
        output: Tensor = self.down_proj(self.act_fn(gate) * self.up_proj(x))
        return output


def test_other_layers_of_the_same_submodules_do_not_change() -> None:
    model = nn.Sequential(Capped())
    recompute_gated_mlps(model)
    assert type(model[0]) is Capped


def test_a_deep_copy_has_separate_weights(tiny_model: Path) -> None:
    model = load(tiny_model, recompute=True, adapter=False)
    duplicate = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.zero_()
    layer, zeroed = (m.model.layers[0].mlp for m in (model, duplicate))  # type: ignore[union-attr]
    x = torch.randn(2, layer.gate_proj.in_features)
    assert isinstance(layer, RecomputedGatedMLP)
    with torch.no_grad():
        assert float(layer(x).abs().max()) > 0 == float(zeroed(x).abs().max())
