"""Gated layers that make again what they do not keep, and a heap that gives back what it does not hold."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, PreTrainedModel

from cai.modeling import memory
from cai.modeling.gated_mlp import RecomputedGatedMLP, recompute_gated_mlps
from cai.modeling.lora import parameters_of, with_adapter
from cai.modeling.skinny_linear import use_skinny_linears

IDS = torch.arange(60).view(3, 20)


def model_of(tiny: Path, *, leanly: bool, adapter: bool, thinly: bool = False) -> nn.Module:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny)
    if thinly:
        use_skinny_linears(model)
    if leanly:
        recompute_gated_mlps(model)
    if not adapter:
        return model
    torch.manual_seed(0)
    wrapped = with_adapter(model, "policy", 4)
    for parameter in parameters_of(wrapped, "policy"):
        nn.init.normal_(parameter, std=0.1)
    return wrapped


def gradients(model: nn.Module) -> tuple[Tensor, list[Tensor]]:
    loss: Tensor = model(IDS).logits.square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("thinly", [False, True])
def test_what_is_made_again_is_the_same_to_the_last_bit(tiny_model: Path, adapter: bool, thinly: bool) -> None:
    """Weights and adapters; in the usual order of products, and in the one for few rows, whose results lie otherwise."""
    plain, other = (gradients(model_of(tiny_model, leanly=leanly, adapter=adapter, thinly=thinly)) for leanly in (False, True))
    assert torch.equal(plain[0], other[0])
    assert len(plain[1]) == len(other[1]) > 10
    assert all(torch.equal(a, b) for a, b in zip(plain[1], other[1], strict=True))


def kept(layer: nn.Module, x: Tensor) -> int:
    """Numbers kept for the way back, weights and the layer's own input not counted."""
    mine = {p.untyped_storage().data_ptr() for p in layer.parameters()} | {x.untyped_storage().data_ptr()}
    held: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in mine:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        out = layer(x)
    assert out.requires_grad
    return sum(tensor.numel() for tensor in held.values())


def test_half_of_the_wide_tensors_are_kept(tiny_model: Path) -> None:
    """Of gate, act(gate), up and their product, the first and the third."""
    plain, other = (model_of(tiny_model, leanly=leanly, adapter=False) for leanly in (False, True))
    layers = [model.model.layers[0].mlp for model in (plain, other)]  # type: ignore[union-attr]
    width = layers[0].gate_proj.out_features
    x = torch.randn(5, layers[0].gate_proj.in_features)
    assert [kept(layer, x) for layer in layers] == [4 * 5 * width, 2 * 5 * width]


class Capped(nn.Module):
    """The same parts, and something else made of them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=7)) * self.up_proj(x))
        return found


def test_other_layers_of_the_same_parts_are_left_alone() -> None:
    model = nn.Sequential(Capped())
    recompute_gated_mlps(model)
    assert type(model[0]) is Capped


def test_a_copy_has_weights_of_its_own(tiny_model: Path) -> None:
    model = model_of(tiny_model, leanly=True, adapter=False)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    layer, other = (m.model.layers[0].mlp for m in (model, twin))  # type: ignore[union-attr]
    x = torch.randn(2, layer.gate_proj.in_features)
    assert isinstance(layer, RecomputedGatedMLP)
    with torch.no_grad():
        assert float(layer(x).abs().max()) > 0 == float(other(x).abs().max())


def test_the_heap_is_asked_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[int, ...]]] = []

    class Libc:
        def malloc_trim(self, keep: int) -> None:
            asked.append(("trim", (keep,)))

        def mallopt(self, name: int, value: int) -> None:
            asked.append(("opt", (name, value)))

    monkeypatch.setattr(memory, "_libc", Libc)
    memory.release_memory()
    memory.mmap_large_tensors()
    assert asked == [("trim", (0,)), ("opt", (-3, 3_000_000))]
    monkeypatch.setattr(memory, "_libc", object)  # a C library without either
    memory.release_memory()
    memory.mmap_large_tensors()
    monkeypatch.setattr(memory, "_libc", lambda: None)
    memory.release_memory()
    memory.mmap_large_tensors()
