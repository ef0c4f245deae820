"""Batches of token ids: padding, batches of similar length, and the prefix that rows share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TokenIds = Sequence[int]
MIN_SHARED_TOKENS = 16
"""A shorter shared prefix is not worth a forward pass of its own."""


def common_prefix_length(rows: Sequence[TokenIds]) -> int:
    """Number of leading tokens that all rows share, at most all but the last of any row."""
    # in lexical order the first and the last row share what all rows share
    first, last = min(map(tuple, rows)), max(map(tuple, rows))
    limit = min(map(len, rows)) - 1
    shared = 0
    while shared < limit and first[shared] == last[shared]:
        shared += 1
    return shared


def left_pad(rows: Sequence[TokenIds], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), both (B, T), padding first; mask is True on real tokens.

    The mask comes from lengths: the pad token may be a real token too.
    """
    width = max(map(len, rows))
    return _pad(rows, [width - len(row) for row in rows], pad_id, device)


def right_pad(rows: Sequence[TokenIds], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), both (B, T), real tokens first: under causal attention padding after a token
    cannot change it.
    """
    return _pad(rows, [0] * len(rows), pad_id, device)


def _pad(
    rows: Sequence[TokenIds], starts: Sequence[int], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids_BT = torch.full((len(rows), width), pad_id)
    mask_BT = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids_BT[i, start : start + len(row)] = torch.tensor(list(row))
        mask_BT[i, start : start + len(row)] = True
    return ids_BT.to(device), mask_BT.to(device)


def length_batches(rows: Sequence[TokenIds], size: int) -> list[list[int]]:
    """Indices of rows in batches of similar length: little padding, and the same batches for the
    same rows.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return [order[i : i + size] for i in range(0, len(order), size)]


def chunk_by_tokens(rows: Sequence[TokenIds], max_tokens: int) -> list[slice]:
    """Neighbouring rows in chunks of at most `max_tokens`, padding included, or of one row."""
    chunks: list[slice] = []
    start, width = 0, 0
    for i, row in enumerate(rows):
        width = max(width, len(row))
        if i > start and (i + 1 - start) * width > max_tokens:
            chunks.append(slice(start, i))
            start, width = i, len(row)
    return [*chunks, slice(start, len(rows))]
