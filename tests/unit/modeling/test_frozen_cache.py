"""Activation caching of frozen blocks: one computation per batch of rows, and the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import tiny_llama

from cai.modeling.frozen_cache import FrozenCache, frozen_blocks
from cai.modeling.lora import adapter_parameters, hidden_states, with_adapter

IDS = torch.arange(24).reshape(2, 12) * 7 % 250


def trained_policy(layers: int | None) -> tuple[Any, list[int]]:
    """A model whose adapter has non-zero weights, and one entry per pass of its lowest block."""
    model = with_adapter(tiny_llama(), "policy", 4, layers)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapter_parameters(model, "policy"):
            parameter.normal_(0, 0.1)
    runs: list[int] = []
    lowest = model.get_base_model().base_model.layers[0]
    forward = type(lowest).forward

    class Counting(type(lowest)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            runs.append(1)
            return forward(self, *args, **kwargs)

    lowest.__class__ = Counting
    return model, runs


@pytest.mark.parametrize(("layers", "passes"), [(1, 1), (2, 3), (9, 3), (None, 3)])
def test_later_passes_skip_frozen_blocks(layers: int | None, passes: int) -> None:
    """Of two blocks the upper one is trained: three passes run the lower one once, bit for bit."""
    model, runs = trained_policy(layers)
    cache = FrozenCache(frozen_blocks(model.get_base_model(), layers))
    with torch.no_grad(), cache.reuse():
        reference = hidden_states(model, None, IDS)
    with torch.no_grad(), cache.reuse():
        no_grad_states = hidden_states(model, "policy", IDS)
    with cache.reuse():
        states = hidden_states(model, "policy", IDS)
    assert len(runs) == passes
    states.square().sum().backward()
    got = [p.grad.clone() for p in adapter_parameters(model, "policy") if p.grad is not None]
    model.zero_grad()
    with torch.no_grad():
        assert torch.equal(reference, hidden_states(model, None, IDS))
    plain = hidden_states(model, "policy", IDS)
    plain.square().sum().backward()
    assert torch.equal(no_grad_states, plain)
    assert torch.equal(states, plain)
    want = [p.grad for p in adapter_parameters(model, "policy") if p.grad is not None]
    assert len(got) == len(want) == len(adapter_parameters(model, "policy"))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_the_model_is_restored_after_an_error() -> None:
    """An error in the first pass or in a later one leaves neither hook nor replaced forward."""
    model, _ = trained_policy(1)
    cache = FrozenCache(frozen_blocks(model.get_base_model(), 1))
    with pytest.raises(IndexError), torch.no_grad(), cache.reuse():
        hidden_states(model, None, torch.tensor([[10**6]]))
    assert cache.outputs == []
    with torch.no_grad():
        with cache.reuse():
            hidden_states(model, None, IDS)
        with pytest.raises(ZeroDivisionError), cache.reuse():
            _ = 1 / 0
        other = IDS.flip(0)
        assert torch.equal(
            hidden_states(model, None, other), hidden_states(model, None, IDS).flip(0)
        )
