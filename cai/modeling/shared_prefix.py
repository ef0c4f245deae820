"""What all rows of a training or scoring batch begin with is computed once: a system turn, a few-shot prompt, a common opening.

The trunk reads the shared tokens in one row, keeps their keys and values, and reads the rest of each row after them. States and
gradients are those of whole rows, up to rounding: a gradient reaches the shared tokens as the sum over rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from cai.modeling import attention
from cai.modeling.attention import Prefix
from cai.modeling.batching import MIN_SHARED_TOKENS


def shared_prefix_forward(trunk: Any, ids_BT: Tensor) -> Tensor:
    """(B, T, hidden) of a model without its head on rows that are right-padded: causal attention needs no mask.

    Rows that begin with at least MIN_SHARED_TOKENS equal tokens share their computation, where the model attends by `attention.attend`.
    """
    B, T = ids_BT.shape
    P = shared_tokens(ids_BT)
    if B == 1 or P < MIN_SHARED_TOKENS or trunk.config._attn_implementation != attention.NAME:
        whole_BTE: Tensor = trunk(input_ids=ids_BT, use_cache=False).last_hidden_state
        return whole_BTE
    cache = DynamicCache(config=trunk.config)
    first_1PE = trunk(input_ids=ids_BT[:1, :P], past_key_values=cache, use_cache=True).last_hidden_state
    # blocks that were passed over (see below.py) have kept nothing, and will not be asked
    layers = tuple((layer.keys[0], layer.values[0]) if layer.is_initialized else None for layer in cache.layers)
    places_1Q = torch.arange(P, T, device=ids_BT.device)[None]
    causal_B1QS = torch.ones(T - P, T - P, dtype=torch.bool, device=ids_BT.device).tril().expand(B, 1, -1, -1)
    rest_BQE = trunk(
        input_ids=ids_BT[:, P:],
        position_ids=places_1Q,
        attention_mask=causal_B1QS,
        use_cache=False,
        prefix=Prefix(P, layers, learnt=True),
    ).last_hidden_state
    return torch.cat([first_1PE.expand(B, -1, -1), rest_BQE], 1)


def shared_tokens(ids_BT: Tensor) -> int:
    """How many tokens all rows begin with, at most all but the last."""
    same_T = (ids_BT == ids_BT[:1]).all(0)
    return int(same_T[:-1].long().cumprod(0).sum())
