"""A key-value cache that appends in place: a step writes one token, instead of copying everything read so far."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens of room left each time the buffers are made anew."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values (B, K, S, D) as views of roomier buffers, kept in `dtype` whatever format they come in."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.kept = dtype
        self.room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, K, Q, D); returns all keys and values."""
        old = self.get_seq_length()
        new = old + key_states.shape[2]
        if self.room is None or self.room[0].shape[2] < new:
            self.room = (self._bigger(key_states, old, 0, new), self._bigger(value_states, old, 1, new))
            self.is_initialized = True
        self.room[0][:, :, old:new] = key_states
        self.room[1][:, :, old:new] = value_states
        self._look(new)
        return self.keys, self.values

    def _bigger(self, like: Tensor, old: int, which: int, need: int) -> Tensor:
        B, K, _, D = like.shape
        made = torch.empty(B, K, need + ROOM, D, dtype=self.kept, device=like.device)
        if self.room is not None:
            made[:, :, :old] = self.room[which][:, :, :old]
        return made

    def _look(self, length: int) -> None:
        if self.room is not None:
            self.keys, self.values = self.room[0][:, :, :length], self.room[1][:, :, :length]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        if self.room is not None:
            length = self.get_seq_length()
            self.room = (self.room[0][indices], self.room[1][indices])
            self._look(length)


def growing_cache(config: PretrainedConfig, dtype: torch.dtype) -> Cache:
    """An empty cache for a model of this configuration."""
    return Cache(layers=[GrowingLayer(dtype) for _ in range(int(config.num_hidden_layers))])
