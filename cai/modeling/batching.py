"""Rows of token ids as padded batches: padding, batches of like length, and the prefix that rows share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Ids = Sequence[int]
MIN_SHARED_TOKENS = 16
"""A shorter shared prefix is not worth a forward pass of its own."""


def common_prefix(rows: Sequence[Ids]) -> int:
    """Number of leading tokens that all rows share, leaving every row at least one token of its own."""
    low, high = min(map(tuple, rows)), max(map(tuple, rows))
    shared = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return max(0, min(shared, min(map(len, rows)) - 1))


def left_pad(rows: Sequence[Ids], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), both (B, T); mask is True on real tokens. It comes from lengths: the pad token may be a real token too."""
    width = max(map(len, rows))
    ids_BT = torch.full((len(rows), width), pad)
    mask_BT = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids_BT[i, width - len(row) :] = torch.tensor(list(row))
        mask_BT[i, width - len(row) :] = True
    return ids_BT.to(device), mask_BT.to(device)


def right_pad(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), both (B, T); real tokens first. Under causal attention what follows a token cannot change it."""
    width = max(map(len, rows))
    ids_BT = torch.full((len(rows), width), pad)
    mask_BT = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids_BT[i, : len(row)] = torch.tensor(list(row))
        mask_BT[i, : len(row)] = True
    return ids_BT.to(device), mask_BT.to(device)


def length_batches(rows: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Places of rows in batches of like length: little padding, and the same batches for the same rows."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return [order[i : i + size] for i in range(0, len(order), size)]
