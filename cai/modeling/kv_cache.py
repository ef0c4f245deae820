"""A key-value cache that appends in place: a step writes one token, instead of copying everything read so far."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens of room left each time the buffers are made anew."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values (B, K, S, D) as views of roomier buffers, kept in `dtype` whatever format they come in.

    Prompts are read a part of the batch at a time: while `reading` is set, what comes is the whole prompt of these rows, and it
    ends in column `width`, where the first new token of every row follows.
    """

    def __init__(self, dtype: torch.dtype, rows: int, width: int) -> None:
        super().__init__()
        self.kept, self.rows, self.width = dtype, rows, width
        self.reading: slice | None = None
        self.room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, K, Q, D); returns all keys and values of the rows at hand."""
        new = (key_states, value_states)
        if self.room is None:
            self.room = (self._empty(key_states, self.width), self._empty(value_states, self.width))
            self.is_initialized = True
            self._look(self.width)
        if self.reading is not None:
            for whole, part in zip(self.room, new, strict=True):
                whole[self.reading, :, self.width - part.shape[2] : self.width] = part
            return new
        old = self.get_seq_length()
        if old == self.room[0].shape[2]:
            self.room = (self._bigger(self.room[0]), self._bigger(self.room[1]))
        for whole, part in zip(self.room, new, strict=True):
            whole[:, :, old : old + 1] = part
        self._look(old + 1)
        return self.keys, self.values

    def _empty(self, like: Tensor, width: int) -> Tensor:
        # zeros: left of a short prompt nothing is ever written, and a weight of 0 times whatever lay there must be 0
        return torch.zeros(self.rows, like.shape[1], width + ROOM, like.shape[3], dtype=self.kept, device=like.device)

    def _bigger(self, full: Tensor) -> Tensor:
        return torch.cat([full, torch.empty_like(full[:, :, :1]).expand(-1, -1, ROOM, -1)], 2)

    def _look(self, length: int) -> None:
        if self.room is not None:
            self.keys, self.values = self.room[0][:, :, :length], self.room[1][:, :, :length]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        if self.room is not None:
            length = self.get_seq_length()
            self.room = (self.room[0][indices], self.room[1][indices])
            self._look(length)


def growing_cache(config: PretrainedConfig, dtype: torch.dtype, rows: int, width: int) -> Cache:
    """A cache for prompts of at most `width` tokens in `rows` rows."""
    return Cache(layers=[GrowingLayer(dtype, rows, width) for _ in range(int(config.num_hidden_layers))])


@contextlib.contextmanager
def reading(cache: Cache, rows: slice) -> Iterator[None]:
    """Inside, the prompts of these rows are read."""
    for layer in cache.layers:
        layer.reading = rows
    try:
        yield
    finally:
        for layer in cache.layers:
            layer.reading = None
