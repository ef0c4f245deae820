"""The C library's heap, which keeps what is freed and tears what it keeps: measured, a third of the memory of a PPO run.

These are requests that other C libraries than glibc do not know; there nothing happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys

M_MMAP_THRESHOLD = -3
"""Its number in glibc's malloc.h."""
LARGE = 3_000_000
"""Bytes. In small batches what passes between layers stays below, and is quickest from the heap; what is wider comes and goes."""


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL("libc.so.6") if sys.platform == "linux" else None


def release_memory() -> None:
    """Freed memory to the system, not only to the allocator, which would keep gigabytes of it for the rest of the run."""
    gc.collect()
    malloc_trim()


def malloc_trim() -> None:
    """What is free already, without looking for more."""
    with contextlib.suppress(OSError, AttributeError):
        if (libc := _libc()) is not None:
            libc.malloc_trim(0)


def mmap_large_tensors() -> None:
    """From here on large tensors get pages of their own, which go back to the system when they are freed.

    Left alone, glibc puts ever larger ones on the heap, where the activations that a step keeps lie between the ones it frees.
    """
    with contextlib.suppress(OSError, AttributeError):
        if (libc := _libc()) is not None:
            libc.mallopt(M_MMAP_THRESHOLD, LARGE)
