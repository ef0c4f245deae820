"""How many rows and tokens a batch of sampling has, on a CPU and on a GPU.

On a CPU a decoding step soon costs in proportion to its rows. On a GPU a step of a thousand rows
takes hardly longer than one of sixty, and memory is what ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from cai.modeling.memory_estimate import attention_shape, free_bytes


@dataclass(frozen=True)
class BatchLimits:
    """Of one batch. Where memory runs out all the same, batches are halved (`out_of_memory.py`)."""

    rows: int
    tokens: int
    """Prompt tokens, without those of a shared prefix."""


CPU_LIMITS = BatchLimits(128, 12_000)
"""A small model's cache takes some 50 kB a token."""
GPU_ROWS = 1024
CACHE_SHARE = 0.4
"""Of a GPU's free memory for keys and values: half for prompts, half for what is sampled."""
NEW_TOKENS = 512
"""That each row may sample, for the number of rows; few rows sample more."""
CPU_HEAD_TOKENS, GPU_HEAD_TOKENS = 128, 1024


def gpu_limits(free: int, token_bytes: int) -> BatchLimits:
    """What free memory leaves room for, rounded down to powers of two: a killed run that goes on
    with a little more or less free memory has the same batches.

    Args:
        free: bytes, beside the weights.
        token_bytes: of keys and values of one token (`memory_estimate.cache_bytes`).
    """
    tokens = _power_of_two(int(CACHE_SHARE * free / 2 / token_bytes))
    return BatchLimits(min(GPU_ROWS, _power_of_two(tokens // NEW_TOKENS)), tokens)


def _power_of_two(most: int) -> int:
    """The largest that is not above `most`; at least 1."""
    return 1 << max(0, most.bit_length() - 1)


def batch_limits(model: PreTrainedModel) -> BatchLimits:
    """For a loaded model, by what its device has free now."""
    free = free_bytes() if model.device.type == "cuda" else None
    if free is None:
        return CPU_LIMITS
    return gpu_limits(free, _token_bytes(model.config.get_text_config(), model.dtype))


def _token_bytes(config: Any, dtype: torch.dtype) -> int:
    """Of keys and values in all layers."""
    _, key_heads, width = attention_shape(config)
    return 2 * int(config.num_hidden_layers) * key_heads * width * dtype.itemsize


def head_tokens(device: torch.device) -> int:
    """Tokens whose logits are computed at once: more take more memory, and fewer launches."""
    return GPU_HEAD_TOKENS if device.type == "cuda" else CPU_HEAD_TOKENS
