"""Several adapters on one base: none changes the base, each changes only what it should, and merging is the same function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from toys import tiny_llama

from cai.modeling import attention, lora_linear
from cai.modeling.batching import length_batches, right_pad
from cai.modeling.lora import (
    active_adapter,
    adapter_tensors,
    add_adapter,
    hidden_states,
    lm_head,
    merge_into,
    parameters_of,
    set_adapter_tensors,
    with_adapter,
)

IDS = torch.arange(24).reshape(2, 12) * 7 % 250


def base() -> Any:
    model = tiny_llama()
    model.set_attn_implementation(attention.ATTN_IMPLEMENTATION)
    return model


@torch.no_grad()
def trained(model: Any, name: str, seed: int) -> None:
    """Fresh adapters are zero; this stands for training."""
    torch.manual_seed(seed)
    for parameter in parameters_of(model, name):
        parameter.normal_(0, 0.1)


@pytest.fixture
def two() -> Any:
    model = with_adapter(base(), "policy", 4)
    add_adapter(model, "pm", 2)
    trained(model, "policy", 1)
    trained(model, "pm", 2)
    return model


@torch.no_grad()
def logits(model: Any, name: str | None) -> torch.Tensor:
    said: torch.Tensor = lm_head(model)(hidden_states(model, name, IDS))
    return said


def test_a_fresh_adapter_changes_nothing() -> None:
    with torch.no_grad():
        want = base()(IDS).logits
    model = with_adapter(base(), "policy", 4)
    add_adapter(model, "pm", 2)
    for name in (None, "policy", "pm"):
        torch.testing.assert_close(logits(model, name), want, atol=1e-6, rtol=0)


def test_adapters_do_not_see_each_other(two: Any) -> None:
    """None is the base itself; each adapter is what it is alone on a base; afterwards the first one speaks again."""
    with torch.no_grad():
        want = base()(IDS).logits
    torch.testing.assert_close(logits(two, None), want, atol=1e-6, rtol=0)
    alone = with_adapter(base(), "pm", 2)
    trained(alone, "pm", 2)
    torch.testing.assert_close(logits(two, "pm"), logits(alone, "pm"), atol=1e-6, rtol=0)
    assert (logits(two, "pm") - want).abs().max() > 0.01
    assert (logits(two, "policy") - logits(two, "pm")).abs().max() > 0.01
    with torch.no_grad():
        assert torch.equal(two(IDS).logits, logits(two, "policy"))


@pytest.mark.parametrize("name", [None, "pm", "policy"])
def test_speaking_with_one_does_not_decide_who_learns(two: Any, name: str | None) -> None:
    """Both adapters take gradients before and after; the base never does; an exception inside changes nothing either."""

    def learners() -> set[str]:
        return {key for key, parameter in two.named_parameters() if parameter.requires_grad}

    with active_adapter(two, "pm"), active_adapter(two, "policy"):
        before = learners()
    assert before == {key for key, _ in two.named_parameters() if "lora_" in key}
    with active_adapter(two, name):
        two(IDS)
    assert learners() == before

    def fails() -> None:
        with active_adapter(two, name):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert learners() == before
    assert two.active_adapter == "policy"


def test_gradients_reach_the_adapter_that_spoke(two: Any) -> None:
    """The reference is read between the policy's forward and backward pass, as in PPO."""
    hidden = hidden_states(two, "policy", IDS)
    hidden_states(two, None, IDS)
    (hidden**2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters_of(two, "policy"))
    assert all(p.grad is None for p in parameters_of(two, "pm"))
    hidden_states(two, "pm", IDS).sum().backward()
    assert all(p.grad is not None for p in parameters_of(two, "pm"))


def test_merged_weights_are_the_policy(two: Any) -> None:
    """W + 2 B A in a copy gives the adapter's logits; the base's own weights stay the same to the last bit."""
    copy, before = base(), logits(two, None)
    merge_into(copy, two, "policy")
    with torch.no_grad():
        torch.testing.assert_close(copy(IDS).logits, logits(two, "policy"), atol=1e-5, rtol=0)
    assert torch.equal(logits(two, None), before)


def test_weights_round_trip(two: Any, tmp_path: Any) -> None:
    """Saved and put into a fresh model: the same logits. A missing tensor, or another adapter's, is refused."""
    save_file(adapter_tensors(two, "policy"), tmp_path / "a.safetensors")
    fresh = with_adapter(base(), "policy", 4)
    set_adapter_tensors(fresh, "policy", load_file(tmp_path / "a.safetensors"))
    assert torch.equal(logits(fresh, "policy"), logits(two, "policy"))
    tensors = adapter_tensors(two, "policy")
    tensors.pop(min(tensors))
    with pytest.raises(ValueError, match="adapter 'policy' has other tensors"):
        set_adapter_tensors(fresh, "policy", tensors)


def test_add_adapter_keeps_one_that_is_there(two: Any) -> None:
    before = logits(two, "pm")
    add_adapter(two, "pm", 2)
    assert torch.equal(logits(two, "pm"), before)


def test_parameters_of_one_adapter(two: Any) -> None:
    """Two layers of seven matrices, A and B each: 28 tensors an adapter, none shared, of rank 4 and 2."""
    policy, pm = parameters_of(two, "policy"), parameters_of(two, "pm")
    assert len(policy) == len(pm) == 28
    assert not {id(p) for p in policy} & {id(p) for p in pm}
    assert {min(p.shape) for p in policy} == {4}
    assert {min(p.shape) for p in pm} == {2}


def test_right_padding_changes_no_real_token(two: Any) -> None:
    """The pad is a real token of the vocabulary: the mask comes from lengths, and hidden states are those of the row alone."""
    rows = [[5, 9, 5], [1, 2, 3, 4, 5, 6, 7], [5]]
    ids, mask = right_pad(rows, 5, torch.device("cpu"))
    assert ids.tolist() == [[5, 9, 5, 5, 5, 5, 5], [1, 2, 3, 4, 5, 6, 7], [5] * 7]
    assert mask.sum(1).tolist() == [3, 7, 1]
    with torch.no_grad():
        got = hidden_states(two, "policy", ids)
        for i, row in enumerate(rows):
            alone = hidden_states(two, "policy", torch.tensor([row]))[0]
            torch.testing.assert_close(got[i][mask[i]], alone, atol=1e-5, rtol=0)


def test_length_batches() -> None:
    assert length_batches([[1] * n for n in (5, 1, 3, 1, 2)], 2) == [[1, 3], [4, 2], [0]]
    assert length_batches([], 2) == []


@pytest.mark.parametrize("bias", [False, True])
def test_the_layers_own_product_is_pefts(bias: bool) -> None:
    """Value and gradients of x W' + b + s (x A') B' are those of peft's layer, in float64, and of finite differences."""
    torch.manual_seed(0)
    theirs = get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(5, 7, bias=bias).double()),  # type: ignore[arg-type]
        LoraConfig(r=2, lora_alpha=6, target_modules=["0"], init_lora_weights=False),
    ).double()
    layer: Any = theirs.base_model.model[0]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)

    def product(*given: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = lora_linear.LoraProduct.apply(given[0], layer.base_layer, *given[1:], 3.0)  # type: ignore[no-untyped-call]
        return y

    ours, expected = product(x, a, b), layer(x)
    assert torch.allclose(ours, expected, rtol=1e-12, atol=1e-12)
    way = torch.randn_like(expected)
    for mine, his in zip(torch.autograd.grad(ours, (x, a, b), way), torch.autograd.grad(expected, (x, a, b), way), strict=True):
        assert torch.allclose(mine, his, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(product, (x, a, b))


def test_every_adapted_layer_has_that_product(two: Any) -> None:
    layers = [module for module in two.modules() if hasattr(module, "lora_A")]
    assert layers
    assert all(type(layer) is lora_linear.LoraLinear for layer in layers)
