"""Decoding with this package's attention and cache: prompts are read at once, then token by token.

Rows are left-padded, and positions follow each row's own tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from cai.modeling.attention import Prefix
from cai.modeling.batching import (
    MIN_SHARED_TOKENS,
    TokenIds,
    chunk_by_tokens,
    common_prefix_length,
    left_pad,
)
from cai.modeling.fast_paths import backbone, fast_paths
from cai.modeling.kv_cache import growing_cache, prefilling
from cai.modeling.logits import logit_head
from cai.modeling.precision import autocast
from cai.modeling.recorded_step import RecordedStep

PREFILL_TOKENS = 4096
"""Prompt tokens a forward pass, padding included.

Larger passes are not faster on a CPU and take more memory.
"""


@torch.no_grad()
def prefill_prefix(model: PreTrainedModel, ids: TokenIds) -> Prefix:
    """Keys and values of `ids`, computed in one row."""
    cache = DynamicCache(config=model.config)
    ids_1P = torch.tensor([list(ids)], device=model.device)
    with autocast(model.device):
        backbone(model)(input_ids=ids_1P, past_key_values=cache, use_cache=True)
    layers = [
        (layer.keys[0].to(model.dtype), layer.values[0].to(model.dtype)) for layer in cache.layers
    ]
    return Prefix(len(ids), tuple(layers))


def shared_prefix(model: PreTrainedModel, rows: Sequence[TokenIds]) -> Prefix | None:
    """What all rows begin with, computed once; None where that is too short or the model runs as
    transformers alone runs it.
    """
    length = common_prefix_length(rows)
    if length < MIN_SHARED_TOKENS or not fast_paths(model).attention:
        return None
    return prefill_prefix(model, rows[0][:length])


def causal_mask(mask_BT: Tensor) -> Tensor:
    """(B, 1, T, T), True where a query may attend: real tokens up to the query itself.

    A padding token attends to itself, so that its softmax is defined.
    """
    T = mask_BT.shape[1]
    causal_TT = torch.ones(T, T, dtype=torch.bool, device=mask_BT.device).tril()
    self_TT = torch.eye(T, dtype=torch.bool, device=mask_BT.device)
    return ((mask_BT[:, None, :] & causal_TT) | self_TT)[:, None]


def forward(
    model: PreTrainedModel, ids_BT: Tensor, position_BT: Tensor, mask_B1QS: Tensor, **kwargs: Any
) -> Tensor:
    """Hidden states (B, T, E) of tokens at given positions; `kwargs` go to the backbone."""
    outputs = backbone(model)(
        input_ids=ids_BT, position_ids=position_BT, attention_mask=mask_B1QS, **kwargs
    )
    hidden_BTE: Tensor = outputs.last_hidden_state
    return hidden_BTE


def prefill(
    model: PreTrainedModel,
    rows: Sequence[TokenIds],
    prefix: Prefix | None,
    pad: int,
    cache: Cache | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Run the model on whole prompts, a chunk of rows at a time, which bounds memory.

    Args:
        rows: the prompts without the tokens of `prefix`.
        cache: where keys and values are stored, if anywhere.

    Yields:
        The chunk's rows and their left-padded hidden states (b, t, E).
    """
    start = prefix.length if prefix else 0
    for chunk in chunk_by_tokens(rows, PREFILL_TOKENS):
        ids_BT, mask_BT = left_pad(rows[chunk], pad, model.device)
        position_BT = (mask_BT.cumsum(1) - 1).clamp(min=0) + start
        with autocast(model.device), nullcontext() if cache is None else prefilling(cache, chunk):
            hidden_BTE = forward(
                model,
                ids_BT,
                position_BT,
                causal_mask(mask_BT),
                past_key_values=cache,
                use_cache=cache is not None,
                prefix=prefix,
            )
        yield chunk, hidden_BTE.to(model.dtype)


class DecodingBatch:
    """Rows that one model continues token by token. Rows can be dropped as they finish."""

    def __init__(
        self, model: PreTrainedModel, rows: Sequence[TokenIds], prefix: Prefix | None, pad: int
    ) -> None:
        self.model, self.prefix, self.head = model, prefix, logit_head(model)
        start = prefix.length if prefix else 0
        suffixes = [row[start:] for row in rows]
        self.mask_BT = left_pad(suffixes, pad, model.device)[1]
        self.cache = growing_cache(model.config, model.dtype, *self.mask_BT.shape)
        chunks = prefill(model, suffixes, prefix, pad, self.cache)
        self.hidden_BE = torch.cat([hidden_BTE[:, -1] for _, hidden_BTE in chunks])
        self.next_position_B = self.mask_BT.sum(1) + start
        self.is_recorded = fast_paths(model).recorded_steps
        self.recorded: RecordedStep | None = None

    def step(self, ids_B: Tensor) -> None:
        """Append one token per row and run the model on it.

        This runs in the model's own format: converting weights would take longer than the step.
        """
        if self.is_recorded:
            if self.recorded is None or self.recorded.is_full:
                self._end_recording()
                self.recorded = RecordedStep(
                    self._forward, self.cache, self.mask_BT, self.next_position_B
                )
            self.hidden_BE = self.recorded(ids_B)
            return
        new_mask_B1 = torch.ones(len(ids_B), 1, dtype=torch.bool, device=ids_B.device)
        self.mask_BT = torch.cat([self.mask_BT, new_mask_B1], 1)
        mask_B11T = self.mask_BT[:, None, None, :]
        self.hidden_BE = self._forward(ids_B[:, None], self.next_position_B[:, None], mask_B11T)[
            :, 0
        ]
        self.next_position_B = self.next_position_B + 1

    def _forward(self, ids_B1: Tensor, position_B1: Tensor, mask_B11T: Tensor) -> Tensor:
        return forward(
            self.model,
            ids_B1,
            position_B1,
            mask_B11T,
            past_key_values=self.cache,
            use_cache=True,
            prefix=self.prefix,
        )

    def _end_recording(self) -> None:
        if self.recorded is not None:
            self.mask_BT, self.next_position_B = self.recorded.finish()
            self.recorded = None

    def is_worth_dropping(self, num_finished: int) -> bool:
        """Whether a batch without its finished rows is that much faster: a new shape is recorded
        anew, which takes as long as several steps.
        """
        num_rows = len(self.hidden_BE)
        return 2 * num_finished >= num_rows if self.is_recorded else num_finished > 0

    def select_rows(self, indices: Tensor) -> None:
        """Keep the rows at `indices`, drop the others."""
        self._end_recording()
        self.cache.batch_select_indices(indices)
        self.mask_BT = self.mask_BT[indices]
        self.next_position_B = self.next_position_B[indices]
        self.hidden_BE = self.hidden_BE[indices]

    def logits(self) -> Tensor:
        """(B, V), float32, of the next token.

        Precise enough to sample from; for log-probabilities see `logit_head_fp32`.
        """
        return self.head(self.hidden_BE).float()
