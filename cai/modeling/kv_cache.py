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
    there.
    """

    def __init__(self, dtype: torch.dtype, rows: int, width: int) -> None:
        super().__init__()
        self.storage_dtype, self.rows, self.width = dtype, rows, width
        self.prefill_rows: slice | None = None
        self.buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (B, K, Q, D); returns all keys and values of the rows that are updated."""
        new = (key_states, value_states)
        if self.buffers is None:
            self.buffers = (self._allocate(key_states), self._allocate(value_states))
            self.is_initialized = True
            self._set_views(self.width)
        if self.prefill_rows is not None:
            for buffer, states in zip(self.buffers, new, strict=True):
                start = self.width - states.shape[2]
                buffer[self.prefill_rows, :, start : self.width] = states
            return new
        length = self.get_seq_length()
        if length == self.buffers[0].shape[2]:
            self.buffers = (self._grow(self.buffers[0]), self._grow(self.buffers[1]))
        for buffer, states in zip(self.buffers, new, strict=True):
            buffer[:, :, length : length + 1] = states
        self._set_views(length + 1)
        return self.keys, self.values

    def _allocate(self, like: Tensor) -> Tensor:
        # Zeros: nothing is ever written left of a short prompt, and a weight of 0 times its
        # contents must be 0.
        _, K, _, D = like.shape
        return torch.zeros(
            self.rows, K, self.width + SPARE_TOKENS, D, dtype=self.storage_dtype, device=like.device
        )

    def _grow(self, buffer: Tensor) -> Tensor:
        spare = torch.empty_like(buffer[:, :, :1]).expand(-1, -1, SPARE_TOKENS, -1)
        return torch.cat([buffer, spare], 2)

    def _set_views(self, length: int) -> None:
        if self.buffers is not None:
            self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows at `indices`, drop the others."""
        if self.buffers is not None:
            length = self.get_seq_length()
            self.buffers = (self.buffers[0][indices], self.buffers[1][indices])
            self._set_views(length)


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
