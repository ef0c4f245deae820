"""Frozen blocks are computed once per batch of rows, and nothing else about the numbers or the model changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import tiny_llama

from cai.modeling.frozen_cache import FrozenCache, frozen_blocks
from cai.modeling.lora import hidden_states, parameters_of, with_adapter

IDS = torch.arange(24).reshape(2, 12) * 7 % 250


def policy(layers: int | None) -> tuple[Any, list[int]]:
    """A model whose adapter has learnt something, and how often its lowest block ran."""
    model = with_adapter(tiny_llama(), "policy", 4, layers)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in parameters_of(model, "policy"):
            parameter.normal_(0, 0.1)
    ran: list[int] = []
    lowest = model.get_base_model().base_model.layers[0]
    inner = type(lowest).forward

    class Counting(type(lowest)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            ran.append(1)
            return inner(self, *args, **kwargs)

    lowest.__class__ = Counting
    return model, ran


@pytest.mark.parametrize(("layers", "passes"), [(1, 1), (2, 3), (9, 3), (None, 3)])
def test_later_passes_leave_out_what_does_not_learn(layers: int | None, passes: int) -> None:
    """Of two blocks, the upper one learns: three passes run the lower one once, to the same bits."""
    model, ran = policy(layers)
    below = FrozenCache(frozen_blocks(model.get_base_model(), layers))
    with torch.no_grad(), below.reuse():
        reference = hidden_states(model, None, IDS)
    with torch.no_grad(), below.reuse():
        quiet = hidden_states(model, "policy", IDS)
    with below.reuse():
        learning = hidden_states(model, "policy", IDS)
    assert len(ran) == passes
    learning.square().sum().backward()
    got = [p.grad.clone() for p in parameters_of(model, "policy") if p.grad is not None]
    model.zero_grad()
    with torch.no_grad():
        assert torch.equal(reference, hidden_states(model, None, IDS))
    plain = hidden_states(model, "policy", IDS)
    plain.square().sum().backward()
    assert torch.equal(quiet, plain)
    assert torch.equal(learning, plain)
    want = [p.grad for p in parameters_of(model, "policy") if p.grad is not None]
    assert len(got) == len(want) == len(parameters_of(model, "policy"))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_the_model_is_whole_again_after_an_error() -> None:
    """An error in the first pass or in a later one leaves neither hook nor stand-in behind."""
    model, _ = policy(1)
    below = FrozenCache(frozen_blocks(model.get_base_model(), 1))
    with pytest.raises(IndexError), torch.no_grad(), below.reuse():
        hidden_states(model, None, torch.tensor([[10**6]]))
    assert below.outputs == []
    with torch.no_grad():
        with below.reuse():
            hidden_states(model, None, IDS)
        with pytest.raises(ZeroDivisionError), below.reuse():
            _ = 1 / 0
        other = IDS.flip(0)
        assert torch.equal(hidden_states(model, None, other), hidden_states(model, None, IDS).flip(0))
