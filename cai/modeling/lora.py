"""One frozen base in memory, several LoRA adapters on it: policy, preference model; the reference is the base with none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import PreTrainedModel

from cai.modeling import lora_linear, shared_prefix
from cai.modeling.precision import autocast

ADAPTER_FILE = "adapter.safetensors"


def lora_config(base: PreTrainedModel, rank: int, layers: int | None = None) -> LoraConfig:
    """All linear layers but the head, scale 2, no dropout: first and later passes see the same function.

    `layers`: only the last so many blocks, so that gradients stop there and a step costs less. None: all of them.
    """
    head = base.get_output_embeddings()
    linear = {key.rpartition(".")[2] for key, m in base.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    return _config(sorted(linear), int(base.config.num_hidden_layers), rank, layers)


def _config(targets: list[str], blocks: int, rank: int, layers: int | None) -> LoraConfig:
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=targets,
        layers_to_transform=None if layers is None else list(range(max(0, blocks - layers), blocks)),
        task_type="CAUSAL_LM",
    )
    config._register_custom_module({torch.nn.Linear: lora_linear.Linear})
    return config


def with_adapter(base: PreTrainedModel, name: str, rank: int, layers: int | None = None) -> PeftModel:
    """The base, frozen, with one fresh adapter (it changes nothing until trained)."""
    model: PeftModel = get_peft_model(base, lora_config(base, rank, layers), adapter_name=name)
    return model.eval()


def add_adapter(model: PeftModel, name: str, rank: int, layers: int | None = None) -> None:
    """A further adapter; one that is there already stays as it is."""
    if name not in model.peft_config:
        targets = sorted(next(iter(model.peft_config.values())).target_modules)
        model.add_adapter(name, _config(targets, int(model.config.num_hidden_layers), rank, layers))
        model.eval()


@contextlib.contextmanager
def active_adapter(model: PeftModel, name: str | None) -> Iterator[None]:
    """Inside, the base speaks with this adapter, or with none: the reference. Which parameters learn isn't touched."""
    if name is None:
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        try:
            with model.disable_adapter():
                yield
        finally:
            for parameter in learning:  # peft gives gradients back to the active adapter only
                parameter.requires_grad_(True)
        return
    before = model.active_adapter
    _activate(model, name)
    try:
        yield
    finally:
        _activate(model, before)


def _activate(model: PeftModel, name: str) -> None:
    if model.active_adapter != name:
        # set_adapter() also decides which adapters take gradients; all of them do here, each gets them only where it was used
        model.set_adapter(name)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.requires_grad_(True)


def parameters_of(model: PeftModel, name: str) -> list[torch.nn.Parameter]:
    """The adapter's trainable tensors, in a fixed order."""
    return [p for key, p in model.named_parameters() if "lora_" in key and f".{name}." in key]


def adapter_tensors(model: PeftModel, name: str) -> dict[str, Tensor]:
    """The adapter's weights by name."""
    found: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return found


def set_adapter_tensors(model: PeftModel, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Put saved weights into an adapter; a missing or spare one is an error."""
    expected = set(adapter_tensors(model, name))
    if expected != set(tensors):
        raise ValueError(f"adapter {name!r} has other tensors than the file: {sorted(expected ^ set(tensors))[:3]}")
    set_peft_model_state_dict(model, dict(tensors), adapter_name=name)


def hidden_states(model: PeftModel, name: str | None, ids_BT: Tensor) -> Tensor:
    """(B, T, hidden) of the base with adapter `name`, or with none, in the model's own format. Rows are right-padded: no mask."""
    with active_adapter(model, name), autocast(model.device):
        hidden = shared_prefix.shared_prefix_forward(model.get_base_model().base_model, ids_BT)
    return hidden.to(model.dtype)


def lm_head(model: PeftModel) -> Any:
    """Hidden states -> logits."""
    return model.get_base_model().get_output_embeddings()


def _layers(model: PeftModel, name: str) -> Iterator[tuple[str, Any]]:
    """The base's layers that the adapter changes."""
    for key, module in model.get_base_model().named_modules():
        if hasattr(module, "lora_A") and name in module.lora_A:
            yield key, module


@torch.no_grad()
def merge_into(target: PreTrainedModel, model: PeftModel, name: str) -> None:
    """Give `target`, a plain copy of the base, the weights W + s * B A: the policy without the adapter's extra products.

    The base itself is left alone: merging in place and back would move it by a rounding error each time.
    """
    weights = dict(target.named_parameters())
    for key, module in _layers(model, name):
        weights[f"{key}.weight"].copy_(module.get_base_layer().weight + module.get_delta_weight(name))
