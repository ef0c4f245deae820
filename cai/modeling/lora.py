"""One frozen base model with several LoRA adapters; without an adapter it is the reference."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from transformers import PreTrainedModel

from cai.modeling import lora_linear, shared_prefix
from cai.modeling.fast_paths import backbone
from cai.modeling.logits import logit_head
from cai.modeling.lora_targets import stores_transposed, target_modules
from cai.modeling.precision import autocast

ADAPTER_FILE = "adapter.safetensors"


def lora_config(
    base: PreTrainedModel, rank: int, num_trainable_layers: int | None = None
) -> LoraConfig:
    """LoRA on the linear layers of `lora_targets.target_modules`, with scale 2.

    There is no dropout, so that repeated passes over a batch compute the same function.

    Args:
        num_trainable_layers: adapt only that many of the last blocks, so that the backward pass
            ends there and a step costs less. None: all of them.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=target_modules(base),
        layers_to_transform=_last_layers(base, num_trainable_layers),
        fan_in_fan_out=stores_transposed(base),
        task_type="CAUSAL_LM",
    )
    config._register_custom_module({torch.nn.Linear: lora_linear.LoraLinear})
    return config


def _last_layers(base: PreTrainedModel, count: int | None) -> list[int] | None:
    num_layers = int(base.config.get_text_config().num_hidden_layers)
    return None if count is None else list(range(max(0, num_layers - count), num_layers))


@contextlib.contextmanager
def without_rename_warning() -> Iterator[None]:
    """Inside, the user is not told that peft reads a model's property by its former name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated")
        yield


def with_adapter(
    base: PreTrainedModel, name: str, rank: int, num_trainable_layers: int | None = None
) -> PeftModel:
    """The base, frozen, with one fresh adapter, which changes nothing until it is trained."""
    config = lora_config(base, rank, num_trainable_layers)
    with without_rename_warning():
        model: PeftModel = get_peft_model(base, config, adapter_name=name)
    return model.eval()


def add_adapter(
    model: PeftModel, name: str, rank: int, num_trainable_layers: int | None = None
) -> None:
    """Add a fresh adapter; an existing one of that name stays as it is."""
    if name not in model.peft_config:
        first = copy.copy(next(iter(model.peft_config.values())))
        first.r, first.lora_alpha = rank, 2 * rank
        first.layers_to_transform = _last_layers(model.get_base_model(), num_trainable_layers)
        model.add_adapter(name, first)
        model.eval()


@contextlib.contextmanager
def active_adapter(model: PeftModel, name: str | None) -> Iterator[None]:
    """Inside, the model computes with this adapter, or with none: the reference.

    Which parameters require gradients does not change.
    """
    if name is None:
        with _no_adapter(model):
            yield
        return
    before = model.active_adapter
    _activate(model, name)
    try:
        yield
    finally:
        _activate(model, before)


@contextlib.contextmanager
def _no_adapter(model: PeftModel) -> Iterator[None]:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter in trainable:  # peft restores gradients of the active adapter only
            parameter.requires_grad_(True)


def _activate(model: PeftModel, name: str) -> None:
    if model.active_adapter != name:
        # set_adapter() also freezes the other adapters. Here all of them require gradients; each
        # gets them only where it was used.
        model.set_adapter(name)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.requires_grad_(True)


def adapter_parameters(model: PeftModel, name: str) -> list[torch.nn.Parameter]:
    """The adapter's trainable tensors, in a fixed order."""
    return [p for key, p in model.named_parameters() if "lora_" in key and f".{name}." in key]


def adapter_tensors(model: PeftModel, name: str) -> dict[str, Tensor]:
    """The adapter's weights by name."""
    tensors: dict[str, Tensor] = get_peft_model_state_dict(
        model, adapter_name=name, save_embedding_layers=False
    )
    return tensors


@torch.no_grad()
def set_adapter_tensors(model: PeftModel, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Load saved weights into an adapter.

    Each is copied under its name: peft would take some for those of experts in an earlier version
    of the model, and leave them out silently.

    Raises:
        ValueError: a tensor is missing or has another shape, or the adapter has no such tensor.
    """
    expected = set(adapter_tensors(model, name))
    if expected != set(tensors):
        different = sorted(expected ^ set(tensors))[:3]
        raise ValueError(f"adapter {name!r} has other tensors than the file: {different}")
    for key, parameter in model.named_parameters():
        if "lora_" in key and f".{name}." in key:
            saved = tensors[key.replace(f".{name}.", ".")]
            if saved.shape != parameter.shape:
                raise ValueError(f"adapter {name!r}: {key} has another shape in the file")
            parameter.copy_(saved)


def hidden_states(model: PeftModel, name: str | None, ids_BT: Tensor) -> Tensor:
    """(B, T, E) of the base with adapter `name`, or with none, in the model's own format.

    Rows are right-padded, so they need no mask.
    """
    with active_adapter(model, name):
        return plain_hidden_states(model.get_base_model(), ids_BT)


def plain_hidden_states(model: PreTrainedModel, ids_BT: Tensor) -> Tensor:
    """`hidden_states` of a model without adapters."""
    with autocast(model.device):
        hidden_BTE = shared_prefix.shared_prefix_forward(backbone(model), ids_BT)
    return hidden_BTE.to(model.dtype)


def lm_head(model: PeftModel) -> Any:
    """The language-model head: hidden states -> logits."""
    return logit_head(model.get_base_model())


def _adapted_layers(model: PeftModel, name: str) -> Iterator[tuple[str, Any]]:
    for key, module in model.get_base_model().named_modules():
        if hasattr(module, "lora_A") and name in module.lora_A:
            yield key, module


@torch.no_grad()
def merge_adapter_into(target: PreTrainedModel, model: PeftModel, name: str) -> None:
    """Write W + s * B A to `target`, a plain copy of the base: the policy without LoRA products.

    The base itself does not change: merging in place and back would add a rounding error each time.
    A base in a shorter format than the target's has lost digits: then W is the target's own, which
    must be freshly loaded.
    """
    weights = dict(target.named_parameters())
    for key, module in _adapted_layers(model, name):
        weight, base = weights[f"{key}.weight"], module.get_base_layer().weight
        source = weight if base.dtype.itemsize < weight.dtype.itemsize else base
        weight.copy_(source + module.get_delta_weight(name).to(source.device))
