"""Number formats. What learns is float32: weights, optimisers, rewards, log-probabilities. Large matrix products, and a model
that only speaks, may be bfloat16.

Where the processor multiplies bfloat16 natively, that is about twice as fast and half the memory. The choice is part of a
model's fingerprint, so texts drawn under one are never mistaken for texts drawn under the other.
"""

from __future__ import annotations

import os
from functools import cache

import torch

from cai.errors import UsageError, blame

DEVICE = "CAI_DEVICE"
VARIABLE = "CAI_PRECISION"
CHOICES = ("auto", "float32", "bfloat16")


@cache
def device() -> torch.device:
    """Where models live: the graphics card whose number torchrun gave this process, or the first; else main memory.

    `CAI_DEVICE=cpu` (or any name that torch knows) decides instead.
    """
    if chosen := os.environ.get(DEVICE):
        with blame(UsageError, f"{DEVICE}={chosen}"):
            return torch.device(chosen)
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")


@cache
def matmul_dtype() -> torch.dtype:
    """float32, or bfloat16 where it pays; `CAI_PRECISION=float32|bfloat16` decides instead of the processor."""
    chosen = os.environ.get(VARIABLE, "auto")
    if chosen not in CHOICES:
        raise UsageError(f"{VARIABLE}={chosen}: expected one of {', '.join(CHOICES)}")
    if chosen == "auto":
        native = device().type != "cpu" or any(map(torch.cpu.get_capabilities().get, ("amx_bf16", "avx512_bf16")))
        chosen = "bfloat16" if native else "float32"
    return torch.bfloat16 if chosen == "bfloat16" else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """A context in which large matrix products on `device` run in `matmul_dtype()`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=matmul_dtype() == torch.bfloat16)
