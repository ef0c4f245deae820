"""Rows that begin alike: the states and gradients of whole rows, from a computation that reads the opening once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cai.modeling import shared_prefix
from cai.modeling.frozen_cache import FrozenCache, frozen_blocks
from cai.modeling.loading import load_model
from cai.modeling.lora import hidden_states, parameters_of, with_adapter

OPENING = list(range(40, 60))


def rows(width: int = 31) -> Tensor:
    """Four rows of 20 equal tokens and up to 11 of their own, padded on the right with 257."""
    torch.manual_seed(1)
    made = torch.full((4, width), 257)
    for i, row in enumerate(made):
        own = torch.randint(0, 250, (11 - 2 * i,))
        row[: 20 + len(own)] = torch.cat([torch.tensor(OPENING), own])
    return made


def test_how_much_is_shared() -> None:
    assert shared_prefix.shared_tokens(rows()) == 20
    assert shared_prefix.shared_tokens(torch.tensor([[1, 2, 3], [1, 2, 3]])) == 2, (
        "the last token is never shared: something must be read"
    )
    assert shared_prefix.shared_tokens(torch.tensor([[1, 2], [2, 2]])) == 0


@pytest.mark.parametrize("layers", [None, 1])
def test_states_and_gradients_are_those_of_whole_rows(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, layers: int | None
) -> None:
    """Weighted sums of all states; the weights make each row's gradient another."""
    model = with_adapter(load_model(str(tiny_model)), "policy", 4, layers)
    with torch.no_grad():
        for parameter in parameters_of(model, "policy"):
            parameter.normal_(0, 0.1)
    ids = rows()
    torch.manual_seed(2)
    weights = torch.randn(*ids.shape, 32)
    found = []
    for least in (16, 1000):
        monkeypatch.setattr(shared_prefix, "MIN_SHARED_TOKENS", least)
        model.zero_grad()
        states = hidden_states(model, "policy", ids)
        (states * weights).sum().backward()
        found.append((states.detach(), [p.grad.clone() for p in parameters_of(model, "policy") if p.grad is not None]))
    (once, once_grads), (whole, whole_grads) = found
    torch.testing.assert_close(once, whole, atol=1e-5, rtol=1e-4)
    assert len(once_grads) == len(whole_grads) > 0
    for a, b in zip(once_grads, whole_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_fewer_tokens_are_read(tiny_model: Path) -> None:
    model = load_model(str(tiny_model))
    seen: list[int] = []
    model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[:2].numel()))
    with torch.no_grad():
        shared_prefix.shared_prefix_forward(model.base_model, rows())
    assert seen == [20, 4 * 11]


def test_frozen_blocks_are_passed_over_in_both_passes(tiny_model: Path) -> None:
    """The second reading computes the upper block alone, for the opening and for the rows, and gives the same states."""
    model = with_adapter(load_model(str(tiny_model)), "policy", 4, 1)
    below = FrozenCache(frozen_blocks(model.get_base_model(), 1))
    calls: list[int] = []
    layers = model.get_base_model().model.layers
    for number, block in enumerate(layers):
        block.mlp.register_forward_hook(lambda *_, number=number: calls.append(number))
    with torch.no_grad():
        for expected in ([0, 1, 0, 1], [1, 1], [1, 1]):
            calls.clear()
            with below.reuse():
                states = hidden_states(model, None, rows())
            assert calls == expected
            torch.testing.assert_close(states, hidden_states(model, None, rows()), atol=1e-6, rtol=1e-5)
