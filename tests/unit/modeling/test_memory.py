"""Calls of the C library that return freed memory."""

from __future__ import annotations

import pytest

from cai.modeling import memory


def test_glibc_is_called_where_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, tuple[int, ...]]] = []

    class Libc:
        def malloc_trim(self, keep: int) -> None:
            calls.append(("trim", (keep,)))

        def mallopt(self, name: int, value: int) -> None:
            calls.append(("opt", (name, value)))

    monkeypatch.setattr(memory, "_libc", Libc)
    memory.release_memory()
    memory.mmap_large_tensors()
    assert calls == [("trim", (0,)), ("opt", (-3, 3_000_000))]
    monkeypatch.setattr(memory, "_libc", object)  # a C library without these functions
    memory.release_memory()
    memory.mmap_large_tensors()
    monkeypatch.setattr(memory, "_libc", lambda: None)
    memory.release_memory()
    memory.mmap_large_tensors()
