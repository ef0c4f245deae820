"""Several LoRA adapters on one base: independence, gradients, merging, saving."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import tiny_llama

from cai.modeling import attention, lora_linear
from cai.modeling.batching import right_pad
from cai.modeling.lora import (
    active_adapter,
    adapter_parameters,
    adapter_tensors,
    add_adapter,
    hidden_states,
    lm_head,
    merge_adapter_into,
    set_adapter_tensors,
    with_adapter,
)

IDS = torch.arange(24).reshape(2, 12) * 7 % 250


def base() -> Any:
    model = tiny_llama()
    model.set_attn_implementation(attention.ATTN_IMPLEMENTATION)
    return model


@torch.no_grad()
def randomize(model: Any, name: str, seed: int) -> None:
    """Non-zero weights in place of training: a fresh adapter is zero."""
    torch.manual_seed(seed)
    for parameter in adapter_parameters(model, name):
        parameter.normal_(0, 0.1)


@pytest.fixture
def model() -> Any:
    """The base with two adapters."""
    model = with_adapter(base(), "policy", 4)
    add_adapter(model, "pm", 2)
    randomize(model, "policy", 1)
    randomize(model, "pm", 2)
    return model


@torch.no_grad()
def logits(model: Any, name: str | None) -> torch.Tensor:
    logits_BTV: torch.Tensor = lm_head(model)(hidden_states(model, name, IDS))
    return logits_BTV


def test_a_fresh_adapter_changes_nothing() -> None:
    with torch.no_grad():
        want = base()(IDS).logits
    model = with_adapter(base(), "policy", 4)
    add_adapter(model, "pm", 2)
    for name in (None, "policy", "pm"):
        torch.testing.assert_close(logits(model, name), want, atol=1e-6, rtol=0)


def test_adapters_do_not_see_each_other(model: Any) -> None:
    """None is the base itself, each adapter is as alone on a base, and the first stays active."""
    with torch.no_grad():
        want = base()(IDS).logits
    torch.testing.assert_close(logits(model, None), want, atol=1e-6, rtol=0)
    alone = with_adapter(base(), "pm", 2)
    randomize(alone, "pm", 2)
    torch.testing.assert_close(logits(model, "pm"), logits(alone, "pm"), atol=1e-6, rtol=0)
    assert (logits(model, "pm") - want).abs().max() > 0.01
    assert (logits(model, "policy") - logits(model, "pm")).abs().max() > 0.01
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, logits(model, "policy"))


@pytest.mark.parametrize("name", [None, "pm", "policy"])
def test_active_adapter_does_not_change_requires_grad(model: Any, name: str | None) -> None:
    """Both adapters require gradients before and after, also after an exception; the base never."""

    def trainable() -> set[str]:
        return {key for key, parameter in model.named_parameters() if parameter.requires_grad}

    with active_adapter(model, "pm"), active_adapter(model, "policy"):
        before = trainable()
    assert before == {key for key, _ in model.named_parameters() if "lora_" in key}
    with active_adapter(model, name):
        model(IDS)
    assert trainable() == before

    def fails() -> None:
        with active_adapter(model, name):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert trainable() == before
    assert model.active_adapter == "policy"


def test_gradients_reach_the_adapter_that_was_active(model: Any) -> None:
    """The reference runs between the policy's forward and backward pass, as in PPO."""
    hidden = hidden_states(model, "policy", IDS)
    hidden_states(model, None, IDS)
    (hidden**2).sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in adapter_parameters(model, "policy")
    )
    assert all(p.grad is None for p in adapter_parameters(model, "pm"))
    hidden_states(model, "pm", IDS).sum().backward()
    assert all(p.grad is not None for p in adapter_parameters(model, "pm"))


def test_merged_weights_are_the_policy(model: Any) -> None:
    """W + 2 B A in a copy gives the adapter's logits; the base's weights do not change by a bit."""
    copy, before = base(), logits(model, None)
    merge_adapter_into(copy, model, "policy")
    with torch.no_grad():
        torch.testing.assert_close(copy(IDS).logits, logits(model, "policy"), atol=1e-5, rtol=0)
    assert torch.equal(logits(model, None), before)


def test_weights_round_trip(model: Any, tmp_path: Any) -> None:
    """Saved and loaded into a fresh model: the same logits. A missing tensor is an error."""
    save_file(adapter_tensors(model, "policy"), tmp_path / "a.safetensors")
    fresh = with_adapter(base(), "policy", 4)
    set_adapter_tensors(fresh, "policy", load_file(tmp_path / "a.safetensors"))
    assert torch.equal(logits(fresh, "policy"), logits(model, "policy"))
    tensors = adapter_tensors(model, "policy")
    tensors.pop(min(tensors))
    with pytest.raises(ValueError, match="adapter 'policy' has other tensors"):
        set_adapter_tensors(fresh, "policy", tensors)


def test_add_adapter_keeps_an_existing_one(model: Any) -> None:
    before = logits(model, "pm")
    add_adapter(model, "pm", 2)
    assert torch.equal(logits(model, "pm"), before)


def test_parameters_of_one_adapter(model: Any) -> None:
    """Two layers of seven matrices, A and B each: 28 tensors an adapter, none shared."""
    policy, pm = adapter_parameters(model, "policy"), adapter_parameters(model, "pm")
    assert len(policy) == len(pm) == 28
    assert not {id(p) for p in policy} & {id(p) for p in pm}
    assert {min(p.shape) for p in policy} == {4}
    assert {min(p.shape) for p in pm} == {2}


def test_right_padding_changes_no_real_token(model: Any) -> None:
    """Padding with a real token: the mask comes from lengths, states are those of the row."""
    rows = [[5, 9, 5], [1, 2, 3, 4, 5, 6, 7], [5]]
    ids, mask = right_pad(rows, 5, torch.device("cpu"))
    assert ids.tolist() == [[5, 9, 5, 5, 5, 5, 5], [1, 2, 3, 4, 5, 6, 7], [5] * 7]
    assert mask.sum(1).tolist() == [3, 7, 1]
    with torch.no_grad():
        got = hidden_states(model, "policy", ids)
        for i, row in enumerate(rows):
            alone = hidden_states(model, "policy", torch.tensor([row]))[0]
            torch.testing.assert_close(got[i][mask[i]], alone, atol=1e-5, rtol=0)


def test_every_adapted_layer_is_a_lora_linear(model: Any) -> None:
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert layers
    assert all(type(layer) is lora_linear.LoraLinear for layer in layers)
