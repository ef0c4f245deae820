"""Shared-prefix forward pass for training and scoring: leading tokens that rows share run once.

Shared tokens are a system turn, a few-shot prompt or a common opening. The backbone runs on them in
one row and keeps their keys and values; then it runs on the rest of each row after them. States and
gradients are those of whole rows, up to rounding: a gradient reaches the shared tokens as the sum
over rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from cai.modeling.attention import Prefix
from cai.modeling.batching import MIN_SHARED_TOKENS
from cai.modeling.fast_paths import fast_paths


def shared_prefix_forward(backbone: Any, ids_BT: Tensor, min_shared: int | None = None) -> Tensor:
    """Hidden states (B, T, E) of a model without its head on right-padded rows, without a mask.

    Under causal attention padding on the right changes nothing. Rows that begin with at least
    `min_shared` equal tokens (None: MIN_SHARED_TOKENS) share their computation, where the model's
    attention can do that.
    """
    B, T = ids_BT.shape
    P = shared_tokens(ids_BT)
    can_share = fast_paths(backbone).training_prefix
    if B == 1 or (min_shared or MIN_SHARED_TOKENS) > P or not can_share:
        hidden_BTE: Tensor = backbone(input_ids=ids_BT, use_cache=False).last_hidden_state
        return hidden_BTE
    cache = DynamicCache(config=backbone.config)
    prefix_1PE = backbone(
        input_ids=ids_BT[:1, :P], past_key_values=cache, use_cache=True
    ).last_hidden_state
    # Blocks that frozen_cache.py skips have stored nothing, and are skipped in the second pass too.
    layers = tuple(
        (layer.keys[0], layer.values[0]) if layer.is_initialized else None for layer in cache.layers
    )
    Q = T - P
    causal_QQ = torch.ones(Q, Q, dtype=torch.bool, device=ids_BT.device).tril()
    rest_BQE = backbone(
        input_ids=ids_BT[:, P:],
        position_ids=torch.arange(P, T, device=ids_BT.device)[None],
        attention_mask=causal_QQ.expand(B, 1, -1, -1),
        use_cache=False,
        prefix=Prefix(P, layers, for_training=True),
    ).last_hidden_state
    return torch.cat([prefix_1PE.expand(B, -1, -1), rest_BQE], 1)


def shared_tokens(ids_BT: Tensor) -> int:
    """Number of leading tokens that all rows share, at most all but the last."""
    same_T = (ids_BT == ids_BT[:1]).all(0)
    return int(same_T[:-1].long().cumprod(0).sum())
