"""The LoRA product against peft's layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from cai.modeling.lora_linear import LoraProduct


@pytest.mark.parametrize("bias", [False, True])
def test_product_and_gradients_are_pefts(bias: bool) -> None:
    """Value and gradients of x W' + b + s (x A') B' are those of peft's layer, in float64, and of
    finite differences.
    """
    torch.manual_seed(0)
    peft_model = get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(5, 7, bias=bias).double()),  # type: ignore[arg-type]
        LoraConfig(r=2, lora_alpha=6, target_modules=["0"], init_lora_weights=False),
    ).double()
    layer: Any = peft_model.base_model.model[0]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)

    def product(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = LoraProduct.apply(x, layer.base_layer, a, b, 3.0)  # type: ignore[no-untyped-call]
        return y

    actual, expected = product(x, a, b), layer(x)
    assert torch.allclose(actual, expected, rtol=1e-12, atol=1e-12)
    grad_output = torch.randn_like(expected)
    actual_grads = torch.autograd.grad(actual, (x, a, b), grad_output)
    expected_grads = torch.autograd.grad(expected, (x, a, b), grad_output)
    for actual_grad, expected_grad in zip(actual_grads, expected_grads, strict=True):
        assert torch.allclose(actual_grad, expected_grad, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(product, (x, a, b))
