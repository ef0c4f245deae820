"""Attention over a prefix that all rows of a batch share, whose keys and values exist once.

Few-shot examples are most of a critic's or judge's prompt. Their keys and values are computed and
stored for one row. In a decoding step every query of the batch meets them in a single matrix
product, next to the row's own keys, under one softmax. The result equals ordinary attention over
prefix + row; only the copies are gone. Key heads are not repeated to full heads for grouped queries
either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

ATTN_IMPLEMENTATION = "cai_shared_prefix"
"""The name of this attention in transformers' registry (`attn_implementation`)."""

LayerKeysValues = tuple[Tensor, Tensor]
"""Keys and values (KV, P, D) of a prefix in one layer."""


@dataclass(frozen=True)
class Prefix:
    """Keys and values of P tokens that all rows of a batch begin with, one pair a layer."""

    length: int
    layers: tuple[LayerKeysValues | None, ...]
    """None: a layer that is not computed."""
    for_training: bool = False
    """Attend in the format of plain causal rows: passes with and without gradients agree."""


def shared_prefix_attention_forward(
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
    """Softmax attention of Q queries over [prefix; the row's keys], H query heads on K key heads.

    Args:
        attention_mask: (B, 1, Q, S), True where a query may attend to one of the row's own S keys;
            every query attends to the whole prefix.

    Returns:
        (B, Q, H, D), and no attention weights.
    """
    Q, D, S = query_BHQD.shape[2], query_BHQD.shape[3], key_BKSD.shape[2]
    mask_B1QS = None if attention_mask is None else attention_mask[..., :S]
    layer = None if prefix is None else prefix.layers[module.layer_idx]  # type: ignore[index]
    scale = D**-0.5 if scaling is None else scaling
    if Q == 1:
        return _decode_attention(query_BHQD, key_BKSD, value_BKSD, mask_B1QS, scale, layer), None
    is_causal = mask_B1QS is None and layer is None and S == Q
    if layer is not None and mask_B1QS is not None:
        key_BKSD, value_BKSD, mask_B1QS = _prepend_prefix(layer, key_BKSD, value_BKSD, mask_B1QS)
    for_training = is_causal or (prefix is not None and prefix.for_training)
    dtype = _prefill_dtype(query_BHQD, for_training)
    with torch.autocast(query_BHQD.device.type, enabled=False):
        out_BHQD = scaled_dot_product_attention(
            query_BHQD.to(dtype),
            key_BKSD.to(dtype),
            value_BKSD.to(dtype),
            mask_B1QS,
            dropout,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=key_BKSD.shape[1] != query_BHQD.shape[1],
        )
    return out_BHQD.to(query_BHQD.dtype).transpose(1, 2).contiguous(), None


def _prepend_prefix(
    prefix: LayerKeysValues, key_BKSD: Tensor, value_BKSD: Tensor, mask_B1QS: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and mask of prefix + row: copies that live for one call of the fused kernel."""
    B, _, Q, _ = mask_B1QS.shape
    prefix_key_KPD, prefix_value_KPD = prefix
    prefix_key_BKPD = prefix_key_KPD[None].expand(B, -1, -1, -1).to(key_BKSD.dtype)
    prefix_value_BKPD = prefix_value_KPD[None].expand(B, -1, -1, -1).to(value_BKSD.dtype)
    prefix_mask_B1QP = torch.ones(
        B, 1, Q, prefix_key_KPD.shape[1], dtype=torch.bool, device=mask_B1QS.device
    )
    return (
        torch.cat([prefix_key_BKPD, key_BKSD], 2),
        torch.cat([prefix_value_BKPD, value_BKSD], 2),
        torch.cat([prefix_mask_B1QP, mask_B1QS], 3),
    )


def _prefill_dtype(query: Tensor, for_training: bool) -> torch.dtype:
    """The format in which several queries a row attend.

    The CPU kernel's backward pass is several times slower in bfloat16. So rows of training and
    scoring (plain causal ones, and those after a prefix that is trained too) attend in float32
    there, with gradients and without: both passes give the same numbers.
    """
    if query.device.type == "cpu" and for_training:
        return torch.float32
    return torch.bfloat16 if torch.is_autocast_enabled(query.device.type) else query.dtype


def _decode_attention(
    q_BHQD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    mask_B1QS: Tensor | None,
    scale: float,
    prefix: LayerKeysValues | None,
) -> Tensor:
    """One query a row: a product with the prefix, one with the row's own keys, one softmax."""
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
        P = key_KPD.shape[1]
        q_KXD = q_BKGD.transpose(0, 1).reshape(K, -1, D)  # X = B * G
        scores_BKGP = (q_KXD @ key_KPD.transpose(1, 2)).view(K, B, H // K, -1).transpose(0, 1)
        scores_BKGN = torch.cat([scores_BKGP, scores_BKGS], -1)  # N = P + S
        weights_BKGN = scores_BKGN.softmax(-1, dtype=torch.float32).to(v_BKSD.dtype)
        weights_KXP = weights_BKGN[..., :P].transpose(0, 1).reshape(K, -1, P)
        out_prefix_BKGD = (weights_KXP @ value_KPD).view(K, B, H // K, D).transpose(0, 1)
        out_BKGD = out_prefix_BKGD + weights_BKGN[..., P:] @ v_BKSD
    return out_BKGD.reshape(B, H, Q, D).transpose(1, 2).contiguous()


AttentionInterface.register(ATTN_IMPLEMENTATION, shared_prefix_attention_forward)
AttentionMaskInterface.register(ATTN_IMPLEMENTATION, sdpa_mask)
