"""A key-value cache that appends in place: a step writes one token and copies none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

SPARE_TOKENS = 64
"""Free columns added each time the buffers are allocated or grown."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values (B, K, S, D) as views of larger buffers, stored in `dtype`.

    Prompts are prefilled some rows at a time. While `prefill_rows` is set, an update holds the
    whole prompts of these rows; they end in column `width`, and each row's first new token follows
    there. While `column_1` is set, an update is written to that column and returns all columns, the
    free ones too: its shapes and addresses do not follow from how many tokens there are.
    """

    def __init__(self, dtype: torch.dtype, rows: int, width: int) -> None:
        super().__init__()
        self.storage_dtype, self.rows, self.width = dtype, rows, width
        self.prefill_rows: slice | None = None
        self.column_1: Tensor | None = None
        self.buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (B, K, Q, D); returns all keys and values of the rows that are updated."""
        new = (key_states, value_states)
        if self.buffers is None:
            self.buffers = (self._allocate(key_states), self._allocate(value_states))
            self.is_initialized = True
            self.set_length(self.width)
        if self.prefill_rows is not None:
            for buffer, states in zip(self.buffers, new, strict=True):
                start = self.width - states.shape[2]
                buffer[self.prefill_rows, :, start : self.width] = states
            return new
        if self.column_1 is not None:
            for buffer, states in zip(self.buffers, new, strict=True):
                buffer.index_copy_(2, self.column_1, states.to(self.storage_dtype))
            return self.buffers
        length = self.get_seq_length()
        self.reserve()
        for buffer, states in zip(self.buffers, new, strict=True):
            buffer[:, :, length : length + 1] = states
        self.set_length(length + 1)
        return self.keys, self.values

    def _allocate(self, like: Tensor) -> Tensor:
        # Zeros: nothing is ever written left of a short prompt, and a weight of 0 times its
        # contents must be 0.
        _, K, _, D = like.shape
        return torch.zeros(
            self.rows, K, self.width + SPARE_TOKENS, D, dtype=self.storage_dtype, device=like.device
        )

    def reserve(self) -> int:
        """Make room for a token where there is none; returns the number of columns."""
        if self.buffers is None:
            raise ValueError("a cache without prompts has no columns")
        if self.get_seq_length() == self.buffers[0].shape[2]:
            self.buffers = (self._grow(self.buffers[0]), self._grow(self.buffers[1]))
            self.set_length(self.get_seq_length())
        return int(self.buffers[0].shape[2])

    def _grow(self, buffer: Tensor) -> Tensor:
        spare = torch.zeros_like(buffer[:, :, :1]).expand(-1, -1, SPARE_TOKENS, -1)
        return torch.cat([buffer, spare], 2)

    def set_length(self, length: int) -> None:
        """Let the first `length` columns be those that hold tokens."""
        if self.buffers is not None:
            self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows at `indices`, drop the others."""
        if self.buffers is not None:
            length = self.get_seq_length()
            self.buffers = (self.buffers[0][indices], self.buffers[1][indices])
            self.set_length(length)


def growing_cache(config: PretrainedConfig, dtype: torch.dtype, rows: int, width: int) -> Cache:
    """A cache for prompts of at most `width` tokens in `rows` rows."""
    num_layers = int(config.num_hidden_layers)
    return Cache(layers=[GrowingLayer(dtype, rows, width) for _ in range(num_layers)])


@contextlib.contextmanager
def prefilling(cache: Cache, rows: slice) -> Iterator[None]:
    """Inside, updates are the whole prompts of these rows."""
    for layer in cache.layers:
        layer.prefill_rows = rows
    try:
        yield
    finally:
        for layer in cache.layers:
            layer.prefill_rows = None


@contextlib.contextmanager
def writing_at(cache: Cache, column_1: Tensor) -> Iterator[None]:
    """Inside, an update is one token, written to the column that the tensor (1,) holds."""
    for layer in cache.layers:
        layer.column_1 = column_1
    try:
        yield
    finally:
        for layer in cache.layers:
            layer.column_1 = None


def reserve(cache: Cache) -> int:
    """Make room for a token in all layers; returns their number of columns."""
    return max(int(layer.reserve()) for layer in cache.layers)


def set_length(cache: Cache, length: int) -> None:
    """Let the first `length` columns of all layers be those that hold tokens."""
    for layer in cache.layers:
        layer.set_length(length)
