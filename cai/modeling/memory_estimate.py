"""How much memory a model takes, in advance: weights, adapters, optimizer, cache, activations.

An estimate from the model's configuration. Batches are taken as full, with the longest rows, and
what the allocator loses to fragments is left out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from cai.errors import BackendError, blame
from cai.modeling.precision import device

FLOAT32_BYTES = 4
MOMENTS_BYTES = 8
"""Of AdamW, for each weight that learns: two in float32."""
LOGIT_COPIES = 3
"""Logits, their softmax or cumulative sums, and the gradient, in float32 all of them."""
HIDDEN_COPIES = 8
"""States of the model's width that a block keeps for each token: inputs of its norms, of its
products, and the residual sums."""
MLP_COPIES = 3
"""States of the intermediate width: two products, and what the last layer reads."""


@dataclass(frozen=True)
class ModelShape:
    """What of a model's size decides its memory."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    adapted: int
    """Sum of inputs and outputs over the linear layers of all blocks: what LoRA's two matrices
    have a row for."""


def model_shape(name_or_path: str) -> ModelShape:
    """The shape of a model that is not loaded: its modules are made without memory for them.

    Raises:
        BackendError: its configuration cannot be read, or makes no causal model.
    """
    with blame(BackendError, f"model {name_or_path}"):
        return config_shape(AutoConfig.from_pretrained(name_or_path))


def config_shape(config: Any) -> ModelShape:
    """The shape of the causal model that a configuration describes."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    heads, key_heads, head_width = attention_shape(text)
    linears = [m for m in model.base_model.modules() if isinstance(m, nn.Linear)]
    hidden = int(text.hidden_size)
    return ModelShape(
        parameters=sum(p.numel() for p in model.parameters()),
        layers=int(text.num_hidden_layers),
        hidden=hidden,
        intermediate=int(getattr(text, "intermediate_size", None) or 4 * hidden),
        heads=heads,
        key_heads=key_heads,
        head_width=head_width,
        vocabulary=int(text.vocab_size),
        adapted=sum(m.in_features + m.out_features for m in linears),
    )


def attention_shape(config: Any) -> tuple[int, int, int]:
    """(query heads, key heads, width of a head) of a text model's configuration.

    A model without attention counts as one head as wide as its states, which is more than it keeps;
    so does one whose layers differ, where the configuration has lists.
    """
    names = ("num_attention_heads", "num_key_value_heads", "head_dim")
    heads, key_heads, width = (getattr(config, name, None) for name in names)
    if not isinstance(heads, int) or not heads:
        return 1, 1, int(config.hidden_size)
    key_heads = key_heads if isinstance(key_heads, int) and key_heads else heads
    width = width if isinstance(width, int) and width else int(config.hidden_size) // heads
    return heads, key_heads, width


def weight_bytes(shape: ModelShape, dtype: torch.dtype) -> int:
    """Of the model's weights in one format."""
    return shape.parameters * dtype.itemsize


def frozen_bytes(shape: ModelShape, dtype: torch.dtype) -> int:
    """Of a base whose matrices are in a format of their own (`loading.load_frozen`): embeddings and
    head, at most two matrices of the vocabulary's size, stay in float32.
    """
    kept = min(shape.parameters, 2 * shape.vocabulary * shape.hidden)
    return weight_bytes(shape, dtype) + kept * (FLOAT32_BYTES - dtype.itemsize)


def adapter_parameters(shape: ModelShape, rank: int, trained_layers: int | None) -> int:
    """Weights of a LoRA adapter on the last `trained_layers` blocks; None: on all."""
    return rank * shape.adapted * _trained(shape, trained_layers) // shape.layers


def learning_bytes(parameters: int, *, are_new: bool) -> int:
    """Gradient and moments of weights that learn; and the weights, if they are an adapter's."""
    each = FLOAT32_BYTES + MOMENTS_BYTES + (FLOAT32_BYTES if are_new else 0)
    return parameters * each


def cache_bytes(shape: ModelShape, tokens: int, dtype: torch.dtype) -> int:
    """Of keys and values, of all rows' tokens together."""
    return 2 * shape.layers * shape.key_heads * shape.head_width * tokens * dtype.itemsize


def logit_bytes(shape: ModelShape, tokens: int) -> int:
    """Of logits of that many tokens at once."""
    return LOGIT_COPIES * tokens * shape.vocabulary * FLOAT32_BYTES


def activation_bytes(
    shape: ModelShape, tokens: int, trained_layers: int | None, *, are_recomputed: bool = False
) -> int:
    """What the trained blocks keep for the backward pass, and one more block's as it runs.

    Args:
        are_recomputed: each block keeps its input alone, but the one whose gradients are computed.
    """
    width = HIDDEN_COPIES * shape.hidden + MLP_COPIES * shape.intermediate
    width += 2 * (shape.heads + shape.key_heads) * shape.head_width
    trained = _trained(shape, trained_layers)
    kept = trained * shape.hidden + width if are_recomputed else trained * width
    return (kept + width) * tokens * FLOAT32_BYTES


def _trained(shape: ModelShape, trained_layers: int | None) -> int:
    return shape.layers if trained_layers is None else min(trained_layers, shape.layers)


def free_bytes() -> int | None:
    """Free memory of the device that models are on; None: unknown."""
    if device().type == "cuda":
        # what torch keeps for later is free for torch
        kept = torch.cuda.memory_reserved(device()) - torch.cuda.memory_allocated(device())
        return int(torch.cuda.mem_get_info(device())[0]) + kept
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return min(int(line.split()[1]) * 1024, _container_bytes())
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (OSError, ValueError, IndexError):
        return None


def _container_bytes() -> int:
    """What a container's limit leaves; very many without a limit."""
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            limit = int(file.read())
        with open("/sys/fs/cgroup/memory.current", encoding="ascii") as file:
            return max(0, limit - int(file.read()))
    except (OSError, ValueError):  # "max", or another system
        return 1 << 62
