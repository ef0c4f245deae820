"""Rows and tokens of a batch, against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from architectures import KNOWN, SETTINGS
from transformers import AutoConfig, LlamaConfig, MambaConfig

from cai.modeling.batch_limits import (
    CPU_LIMITS,
    GPU_ROWS,
    BatchLimits,
    _token_bytes,
    batch_limits,
    gpu_limits,
)
from cai.modeling.loading import load_model
from cai.modeling.memory_estimate import config_shape

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
def test_memory_is_estimated_for_every_architecture(model_type: str) -> None:
    config = AutoConfig.for_model(model_type, **SETTINGS[model_type])
    assert _token_bytes(config.get_text_config(), torch.bfloat16) > 0
    assert config_shape(config).parameters > 0


def test_keys_and_values_of_a_token_by_hand() -> None:
    """Two layers of two key heads of eight numbers, for keys and values, in two bytes each; and of
    a model without attention two layers of its states.
    """
    shape = {"num_hidden_layers": 2, "hidden_size": 32}
    llama = shape | {"num_attention_heads": 4}
    assert _token_bytes(LlamaConfig(**llama, num_key_value_heads=2), torch.bfloat16) == 128
    assert _token_bytes(LlamaConfig(**llama), torch.float32) == 512
    assert _token_bytes(MambaConfig(**shape), torch.float32) == 512
