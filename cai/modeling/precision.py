"""Device and number formats of models.

Trained weights, optimizers, rewards and log-probabilities are float32. Large matrix products,
models that only generate, and, on a GPU, weights under an adapter may be bfloat16. Where the
processor is faster with it, that is up to twice as fast and takes half the memory. The choice is
part of a model's fingerprint, so texts sampled in one format are never taken for texts sampled in
the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from functools import cache

import torch

from cai.errors import StoreError, UsageError, blame
from cai.modeling.model_files import cache_dir
from cai.store import atomic_write, digest

DEVICE_VARIABLE = "CAI_DEVICE"
PRECISION_VARIABLE = "CAI_PRECISION"
PRECISIONS = ("auto", "float32", "bfloat16")
BFLOAT16_CAPABILITIES = ("amx_bf16", "avx512_bf16")
WORTHWHILE = 0.75
"""Share of float32's time that products in bfloat16 may take: between them lie conversions."""


@cache
def device() -> torch.device:
    """The device of all models: the GPU of this process's LOCAL_RANK, else the first GPU, else CPU.

    `CAI_DEVICE=cpu` (or any device name of torch) overrides this; `cuda` without a number means
    the GPU above.

    Raises:
        UsageError: there is no such device.
    """
    configured = os.environ.get(DEVICE_VARIABLE)
    if configured:
        with blame(UsageError, f"{DEVICE_VARIABLE}={configured}"):
            chosen = torch.device(configured)
        if chosen.type != "cuda":
            return chosen
        if chosen.index is not None:
            return _gpu(chosen.index, f"{DEVICE_VARIABLE}={configured}")
        if not torch.cuda.is_available():
            raise UsageError(f"{DEVICE_VARIABLE}={configured}: torch sees no GPU on this machine")
    elif not torch.cuda.is_available():
        return torch.device("cpu")
    index = os.environ.get("LOCAL_RANK", "0")
    return _gpu(int(index), f"LOCAL_RANK={index}")


def _gpu(index: int, setting: str) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        raise UsageError(
            f"{setting}: torch sees {count} GPUs on this machine, numbered from 0, and each "
            f"process takes one: start fewer processes here, or set {DEVICE_VARIABLE}=cpu"
        )
    return torch.device("cuda", index)


@cache
def matmul_dtype() -> torch.dtype:
    """bfloat16 where the device is faster with it, else float32.

    `CAI_PRECISION=float32|bfloat16` overrides this.
    """
    precision = os.environ.get(PRECISION_VARIABLE, "auto")
    if precision not in PRECISIONS:
        raise UsageError(
            f"{PRECISION_VARIABLE}={precision}: expected one of {', '.join(PRECISIONS)}"
        )
    if precision == "auto":
        precision = "bfloat16" if _bfloat16_is_faster() else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def frozen_dtype() -> torch.dtype:
    """The format of the matrices that stay as they are, under an adapter or in a reference.

    On a GPU that of large products: `autocast` would convert them in every pass, to the same
    numbers. On a CPU float32, which all figures are with.
    """
    return matmul_dtype() if device().type == "cuda" else torch.float32


def _bfloat16_is_faster() -> bool:
    """Whether products in bfloat16 take less time: on a GPU that has them, yes; on a CPU, measured.

    Some processors have bfloat16 instructions that are slower than their float32 ones. The answer
    is kept in the cache, for texts sampled in one format are never continued in the other.
    """
    if device().type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device().type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities()
    if not any(capabilities.get(name) for name in BFLOAT16_CAPABILITIES):
        return False
    file = cache_dir() / f"bfloat16-{digest(platform.processor(), str(capabilities))}.json"
    try:
        return bool(json.loads(file.read_text(encoding="utf-8"))["faster"])
    except (OSError, ValueError, KeyError, TypeError):
        seconds = {str(t): product_seconds(t) for t in (torch.float32, torch.bfloat16)}
        faster = seconds[str(torch.bfloat16)] < WORTHWHILE * seconds[str(torch.float32)]
        with contextlib.suppress(OSError, StoreError):  # a cache that takes nothing costs time only
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(file, json.dumps({"faster": faster, "seconds": seconds}) + "\n")
        return faster


def product_seconds(dtype: torch.dtype) -> float:
    """Seconds of a matrix product such as a training step has, in one format; the best of five."""
    left, right = torch.ones(512, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
    times = []
    for _ in range(6):  # the first one sets up
        start = time.perf_counter()
        for _ in range(5):
            left @ right
        times.append(time.perf_counter() - start)
    return min(times[1:])


def autocast(device: torch.device) -> torch.autocast:
    """A context in which large matrix products on `device` run in `matmul_dtype()`."""
    enabled = matmul_dtype() == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
