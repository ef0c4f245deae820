"""Attention that reads a prefix shared by all rows of a batch once, instead of once a row.

Few-shot examples are most of a critic's or judge's prompt. Their keys and values are computed in one row and kept in one row:
every query of the batch meets them in a single matrix product, next to the row's own keys, under one softmax. The result is
that of ordinary attention over prefix + row; only the copies are gone. Grouped queries are never repeated to full heads either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

NAME = "cai_shared_prefix"


@dataclass(frozen=True)
class Prefix:
    """Keys and values of P tokens that all rows of a batch begin with; one (KV, P, D) pair per layer."""

    length: int
    layers: tuple[tuple[Tensor, Tensor] | None, ...]
    """None: a layer that is not asked."""
    learnt: bool = False
    """Read for training, as plain causal rows are: the same precision in passes with gradients and without."""


def attend(
    module: torch.nn.Module,
    query_BHQD: Tensor,
    key_BKSD: Tensor,
    value_BKSD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    prefix: Prefix | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Softmax attention of Q queries over [prefix; own keys], H query heads on K key heads. Returns (B, Q, H, D).

    `attention_mask` (B, 1, Q, S) is True where a query may look at one of the row's own S keys; the prefix is seen by all.
    """
    if attention_mask is not None:
        attention_mask = attention_mask[..., : key_BKSD.shape[2]]
    layer = None if prefix is None else prefix.layers[module.layer_idx]  # type: ignore[index]
    scale = query_BHQD.shape[-1] ** -0.5 if scaling is None else scaling
    if query_BHQD.shape[2] == 1:
        return _one_query(query_BHQD, key_BKSD, value_BKSD, attention_mask, scale, layer), None
    learnt = prefix is not None and prefix.learnt
    return _many_queries(query_BHQD, key_BKSD, value_BKSD, attention_mask, scale, dropout, layer, learnt), None


Layer = tuple[Tensor, Tensor]


def _many_queries(
    q_BHQD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    mask_B1QS: Tensor | None,
    scale: float,
    dropout: float,
    prefix: Layer | None,
    learnt: bool,
) -> Tensor:
    """Reading prompts and training: torch's fused kernel; the prefix is lent to all rows for the moment."""
    B, H, Q, _ = q_BHQD.shape
    causal = mask_B1QS is None and prefix is None and k_BKSD.shape[2] == Q
    if prefix is not None and mask_B1QS is not None:
        k_BKSD, v_BKSD = (
            torch.cat([p[None].expand(B, -1, -1, -1).to(x.dtype), x], 2) for p, x in zip(prefix, (k_BKSD, v_BKSD), strict=True)
        )
        shown = torch.ones(B, 1, Q, prefix[0].shape[1], dtype=torch.bool, device=mask_B1QS.device)
        mask_B1QS = torch.cat([shown, mask_B1QS], 3)
    # The CPU kernel's backward pass is several times slower in bfloat16. So rows of training and scoring, plain causal ones or
    # those after a prefix that learns too, attend in float32, with gradients and without: both passes give the same numbers.
    in_float = q_BHQD.device.type == "cpu" and (causal or learnt)
    half = torch.is_autocast_enabled(q_BHQD.device.type) and not in_float
    q, k, v = (x.to(torch.bfloat16 if half else torch.float32 if in_float else q_BHQD.dtype) for x in (q_BHQD, k_BKSD, v_BKSD))
    with torch.autocast(q.device.type, enabled=False):
        out_BHQD = scaled_dot_product_attention(
            q, k, v, mask_B1QS, dropout, is_causal=causal, scale=scale, enable_gqa=k.shape[1] != H
        )
    return out_BHQD.to(q_BHQD.dtype).transpose(1, 2).contiguous()


def _one_query(
    q_BHQD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_B1QS: Tensor | None, scale: float, prefix: Layer | None
) -> Tensor:
    """A decoding step: the batch meets the prefix in one product, each row its own keys in another, under one softmax."""
    B, H, Q, D = q_BHQD.shape
    K = k_BKSD.shape[1]
    q_BKGD = (q_BHQD * scale).reshape(B, K, H // K, D)  # G query heads share a key head
    scores_BKGS = q_BKGD @ k_BKSD.transpose(2, 3)
    if mask_B1QS is not None:
        scores_BKGS = scores_BKGS.masked_fill(~mask_B1QS, torch.finfo(scores_BKGS.dtype).min)
    if prefix is None:
        out_BKGD = scores_BKGS.softmax(-1, dtype=torch.float32).to(v_BKSD.dtype) @ v_BKSD
    else:
        key_KPD, value_KPD = prefix
        q_KXD = q_BKGD.transpose(0, 1).reshape(K, -1, D)  # X = B * G
        scores_BKGP = (q_KXD @ key_KPD.transpose(1, 2)).view(K, B, H // K, -1).transpose(0, 1)
        weights = torch.cat([scores_BKGP, scores_BKGS], -1).softmax(-1, dtype=torch.float32).to(v_BKSD.dtype)
        P = key_KPD.shape[1]
        weights_KXP = weights[..., :P].transpose(0, 1).reshape(K, -1, P)
        out_BKGD = (weights_KXP @ value_KPD).view(K, B, H // K, D).transpose(0, 1) + weights[..., P:] @ v_BKSD
    return out_BKGD.reshape(B, H, Q, D).transpose(1, 2).contiguous()


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
