"""Returning freed memory to the system: that of a GPU, and main memory under glibc.

glibc's heap keeps what is freed and fragments: measured, a third of the memory of a PPO run. Other
C libraries lack these functions; there nothing happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys

M_MMAP_THRESHOLD = -3
"""The parameter's number in glibc's malloc.h."""
MMAP_THRESHOLD_BYTES = 3_000_000
"""Activations of small batches are smaller, and fastest from the heap."""


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL("libc.so.6") if sys.platform == "linux" else None


def release_memory() -> None:
    """Collect garbage and return freed memory to the system: allocators would keep gigabytes."""
    gc.collect()
    malloc_trim()
    torch = sys.modules.get("torch")  # not imported for this: a run of endpoints does without
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def malloc_trim() -> None:
    """Return free heap memory to the system, without collecting garbage first."""
    with contextlib.suppress(OSError, AttributeError):
        libc = _libc()
        if libc is not None:
            libc.malloc_trim(0)


def mmap_large_tensors() -> None:
    """From here on, allocate large tensors by mmap: their pages return to the system when freed.

    By default glibc raises its threshold and puts ever larger tensors on the heap, where the
    activations that a step saves lie between those it frees.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = _libc()
        if libc is not None:
            libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
