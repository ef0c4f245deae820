"""Rows and tokens of a batch, against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from architectures import KNOWN, SETTINGS
from transformers import AutoConfig, LlamaConfig, PretrainedConfig

from cai.modeling.batch_limits import (
    CPU_LIMITS,
    GPU_ROWS,
    BatchLimits,
    _token_bytes,
    batch_limits,
    gpu_limits,
)
from cai.modeling.loading import load_model

GIB = 1 << 30


def test_a_cpu_has_fixed_limits(tiny_model: Path) -> None:
    assert batch_limits(load_model(str(tiny_model))) == CPU_LIMITS


def test_a_gpus_limits_follow_from_its_memory() -> None:
    """A fifth of the free memory is for prompts' keys and values: of 10 GiB that is 2 GiB, which
    are 16,384 tokens of 128 KiB, or 32 rows of 512. A small model has as many rows as are ever of
    use, and a card without room still one.
    """
    assert gpu_limits(10 * GIB, 128 << 10) == BatchLimits(32, 16_384)
    assert gpu_limits(100 * GIB, 1 << 10) == BatchLimits(GPU_ROWS, 16 << 20)
    assert gpu_limits(12 * GIB, 128 << 10) == gpu_limits(10 * GIB, 128 << 10)
    assert gpu_limits(0, 128 << 10) == BatchLimits(1, 1)


@pytest.mark.parametrize("model_type", KNOWN)
def test_a_token_has_a_size_in_every_architecture(model_type: str) -> None:
    config = AutoConfig.for_model(model_type, **SETTINGS[model_type]).get_text_config()
    assert (_token_bytes(config, torch.bfloat16) or 0) > 0


def test_keys_and_values_of_a_token_by_hand() -> None:
    """Two layers of two key heads of eight numbers, for keys and values, in two bytes each."""
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
    assert _token_bytes(LlamaConfig(**shape, num_key_value_heads=2), torch.bfloat16) == 128
    assert _token_bytes(LlamaConfig(**shape), torch.float32) == 512
    assert _token_bytes(PretrainedConfig(), torch.float32) is None
