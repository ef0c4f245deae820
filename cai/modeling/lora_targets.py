"""The layers that LoRA adapts: all linear ones but the head, found by type and by use."""

from __future__ import annotations

import contextlib
import sys
from functools import cache
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.transformers_weight_conversion import (
    convert_peft_config_for_transformers,
    get_model_conversion_mapping,
)
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cai.modeling.fast_paths import backbone
from cai.modeling.precision import autocast

LINEAR = (nn.Linear, Conv1D)


def target_modules(base: PreTrainedModel) -> list[str]:
    """Names of the linear layers to adapt, in every block; a line on stderr names what has weights
    of that size and stays as it is.

    A layer that is not called, because a fused kernel reads its weight, would never learn. Some
    layers peft itself refuses, for the same reason.
    """
    head = base.get_output_embeddings()
    called = _called_modules(base)
    names: dict[str, bool] = {}
    skipped: set[str] = set()
    others = {
        path.rpartition(".")[2]
        for path, module in base.named_modules()
        if not isinstance(module, LINEAR)
    }
    for path, module in base.named_modules():
        name = path.rpartition(".")[2]
        if isinstance(module, LINEAR) and name in others:
            # 0 of a sequence, for example: with the name of what holds the layer
            name = ".".join(path.split(".")[-2:])
        if isinstance(module, LINEAR) and module is not head:
            names[name] = names.get(name, False) or module in called
        elif not isinstance(module, nn.Embedding):
            skipped |= {
                f"{name}.{key}" if name else key
                for key, parameter in module.named_parameters(recurse=False)
                if parameter.dim() > 2 and parameter.squeeze().dim() > 1
            }
    called_names = [name for name, is_called in names.items() if is_called]
    targets = _kept_by_peft(base, [name for name in called_names if _accepts(base, name)])
    skipped |= names.keys() - set(targets)
    if skipped:
        _print_once(f"LoRA does not adapt {', '.join(sorted(skipped))}")
    return sorted(targets)


def stores_transposed(base: PreTrainedModel) -> bool:
    """Whether the blocks' linear layers hold (in, out), as GPT-2's do."""
    return any(isinstance(module, Conv1D) for module in base.modules())


@torch.no_grad()
def _called_modules(base: PreTrainedModel) -> set[nn.Module]:
    """The linear layers that a forward pass calls. A layer that groups its inputs, or changes their
    shape in another way, is none: no product of two matrices can be added to it.
    """
    called: set[nn.Module] = set()

    def note(module: Any, inputs: Any, output: Any) -> None:
        rows, columns = module.weight.shape
        width = columns if isinstance(module, Conv1D) else rows
        is_tensor = bool(inputs) and isinstance(output, Tensor)
        if is_tensor and output.shape == (*inputs[0].shape[:-1], width):
            called.add(module)

    linear: list[Any] = [module for module in base.modules() if isinstance(module, LINEAR)]
    hooks = [module.register_forward_hook(note) for module in linear]
    try:
        with autocast(base.device):
            backbone(base)(input_ids=torch.ones(1, 8, dtype=torch.long, device=base.device))
    finally:
        for hook in hooks:
            hook.remove()
    return called


def _accepts(base: PreTrainedModel, name: str) -> bool:
    with contextlib.suppress(ValueError):
        config = LoraConfig(target_modules=[name])
        BaseTuner._check_target_module_compatiblity(None, config, base, name)
        return True
    return False


def _kept_by_peft(base: PreTrainedModel, names: list[str]) -> list[str]:
    """The names that peft does not take for those of experts in an earlier version of the model:
    it would adapt the experts' fused weights, which `lora.merge_adapter_into` cannot merge.
    """
    config = LoraConfig(target_modules=names)
    convert_peft_config_for_transformers(config, base, get_model_conversion_mapping(base))
    return [name for name in names if name in config.target_modules]


@cache
def _print_once(line: str) -> None:
    print(f"cai: {line}", file=sys.stderr, flush=True)
