"""Device and number formats of models.

Trained weights, optimizers, rewards and log-probabilities are float32. Large matrix products, and
models that only generate, may be bfloat16. Where the processor multiplies bfloat16 natively, that
is about twice as fast and takes half the memory. The choice is part of a model's fingerprint, so
texts sampled in one format are never taken for texts sampled in the other.
"""

from __future__ import annotations

import os
from functools import cache

import torch

from cai.errors import UsageError, blame

DEVICE_VARIABLE = "CAI_DEVICE"
PRECISION_VARIABLE = "CAI_PRECISION"
PRECISIONS = ("auto", "float32", "bfloat16")
BFLOAT16_CAPABILITIES = ("amx_bf16", "avx512_bf16")


@cache
def device() -> torch.device:
    """The device of all models: the GPU of this process's LOCAL_RANK, else the first GPU, else CPU.

    `CAI_DEVICE=cpu` (or any device name of torch) overrides this.
    """
    configured = os.environ.get(DEVICE_VARIABLE)
    if configured:
        with blame(UsageError, f"{DEVICE_VARIABLE}={configured}"):
            return torch.device(configured)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@cache
def matmul_dtype() -> torch.dtype:
    """bfloat16 where the device supports it natively, else float32.

    `CAI_PRECISION=float32|bfloat16` overrides this.
    """
    precision = os.environ.get(PRECISION_VARIABLE, "auto")
    if precision not in PRECISIONS:
        raise UsageError(
            f"{PRECISION_VARIABLE}={precision}: expected one of {', '.join(PRECISIONS)}"
        )
    if precision == "auto":
        precision = "bfloat16" if _has_native_bfloat16() else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _has_native_bfloat16() -> bool:
    if device().type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in BFLOAT16_CAPABILITIES)


def autocast(device: torch.device) -> torch.autocast:
    """A context in which large matrix products on `device` run in `matmul_dtype()`."""
    enabled = matmul_dtype() == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
