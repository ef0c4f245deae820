"""Rows and tokens of a batch, against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

from cai.modeling.batch_limits import CPU_LIMITS, GPU_ROWS, BatchLimits, batch_limits, gpu_limits
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
