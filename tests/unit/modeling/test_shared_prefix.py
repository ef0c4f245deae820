"""Shared-prefix forward pass: states and gradients equal those of full rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cai.modeling import shared_prefix
from cai.modeling.frozen_cache import FrozenCache, frozen_blocks
from cai.modeling.loading import load_model
from cai.modeling.lora import adapter_parameters, hidden_states, with_adapter

PREFIX = list(range(40, 60))


def rows(width: int = 31) -> Tensor:
    """Four rows of 20 shared tokens and up to 11 others, padded on the right with 257."""
    torch.manual_seed(1)
    ids_BT = torch.full((4, width), 257)
    for i, row in enumerate(ids_BT):
        suffix = torch.randint(0, 250, (11 - 2 * i,))
        row[: 20 + len(suffix)] = torch.cat([torch.tensor(PREFIX), suffix])
    return ids_BT


def test_shared_tokens() -> None:
    assert shared_prefix.shared_tokens(rows()) == 20
    assert shared_prefix.shared_tokens(torch.tensor([[1, 2, 3], [1, 2, 3]])) == 2, (
        "the last token is never shared: each row needs one"
    )
    assert shared_prefix.shared_tokens(torch.tensor([[1, 2], [2, 2]])) == 0


@pytest.mark.parametrize("layers", [None, 1])
def test_states_and_gradients_are_those_of_full_rows(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, layers: int | None
) -> None:
    """For a weighted sum of all states, so that the rows' gradients differ."""
    model = with_adapter(load_model(str(tiny_model)), "policy", 4, layers)
    with torch.no_grad():
        for parameter in adapter_parameters(model, "policy"):
            parameter.normal_(0, 0.1)
    ids = rows()
    torch.manual_seed(2)
    weights = torch.randn(*ids.shape, 32)
    results = []
    for min_shared in (16, 1000):
        monkeypatch.setattr(shared_prefix, "MIN_SHARED_TOKENS", min_shared)
        model.zero_grad()
        states = hidden_states(model, "policy", ids)
        (states * weights).sum().backward()
        grads = [p.grad for p in adapter_parameters(model, "policy")]
        results.append((states.detach(), [grad.clone() for grad in grads if grad is not None]))
    (shared, shared_grads), (full, full_grads) = results
    torch.testing.assert_close(shared, full, atol=1e-5, rtol=1e-4)
    assert len(shared_grads) == len(full_grads) > 0
    for a, b in zip(shared_grads, full_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_shared_tokens_run_once(tiny_model: Path) -> None:
    model = load_model(str(tiny_model))
    num_tokens: list[int] = []
    model.model.layers[0].register_forward_pre_hook(
        lambda _, args: num_tokens.append(args[0].shape[:2].numel())
    )
    with torch.no_grad():
        shared_prefix.shared_prefix_forward(model.base_model, rows())
    assert num_tokens == [20, 4 * 11]


def test_cached_blocks_are_skipped_in_both_passes(tiny_model: Path) -> None:
    """Later passes run only the upper block, on prefix and rows, and give the same states."""
    model = with_adapter(load_model(str(tiny_model)), "policy", 4, 1)
    cache = FrozenCache(frozen_blocks(model.get_base_model(), 1))
    calls: list[int] = []
    layers = model.get_base_model().model.layers
    for index, block in enumerate(layers):
        block.mlp.register_forward_hook(lambda *_, index=index: calls.append(index))
    with torch.no_grad():
        for expected in ([0, 1, 0, 1], [1, 1], [1, 1]):
            calls.clear()
            with cache.reuse():
                states = hidden_states(model, None, rows())
            assert calls == expected
            torch.testing.assert_close(
                states, hidden_states(model, None, rows()), atol=1e-6, rtol=1e-5
            )
