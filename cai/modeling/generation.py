"""Batched generation and option scoring on a transformers model: functions over token ids.

Rows are left-padded, and positions follow each row's own tokens. A model that this does not suit
runs as transformers alone runs it (`plain_generation.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from cai.modeling import plain_generation
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
from cai.modeling.logits import logit_head, logit_head_fp32
from cai.modeling.precision import autocast
from cai.modeling.sampling import Generation, Responses, draw

PREFILL_TOKENS = 4096
"""Prompt tokens a forward pass, padding included.

Larger passes are not faster on a CPU and take more memory.
"""
CUDA_STEPS = 8
"""Tokens that a GPU samples before the host looks for rows that have ended: each look waits for it.
On a CPU there is nothing to wait for, and every token is looked at.
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

    def step(self, ids_B: Tensor) -> None:
        """Append one token per row and run the model on it.

        This runs in the model's own format: converting weights would take longer than the step.
        """
        new_mask_B1 = torch.ones(len(ids_B), 1, dtype=torch.bool, device=ids_B.device)
        self.mask_BT = torch.cat([self.mask_BT, new_mask_B1], 1)
        hidden_B1E = forward(
            self.model,
            ids_B[:, None],
            self.next_position_B[:, None],
            self.mask_BT[:, None, None, :],
            past_key_values=self.cache,
            use_cache=True,
            prefix=self.prefix,
        )
        self.hidden_BE = hidden_B1E[:, 0]
        self.next_position_B = self.next_position_B + 1

    def select_rows(self, indices: Tensor) -> None:
        """Keep the rows at `indices`, drop the others."""
        self.cache.batch_select_indices(indices)
        self.mask_BT = self.mask_BT[indices]
        self.next_position_B = self.next_position_B[indices]
        self.hidden_BE = self.hidden_BE[indices]

    def logits(self) -> Tensor:
        """(B, V), float32, of the next token.

        Precise enough to sample from; for log-probabilities see `logit_head_fp32`.
        """
        return self.head(self.hidden_BE).float()


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    rows: Sequence[TokenIds],
    *,
    max_tokens: Sequence[int],
    temperatures: Sequence[float],
    seeds: Sequence[int],
    stop_ids: frozenset[int],
    pad: int,
    prefix: Prefix | None = None,
    stop_when: Callable[[int, list[int]], bool] = lambda row, ids: False,
    record_logprobs: bool = False,
) -> list[Generation]:
    """Continue each row until a stop token, its `max_tokens`, or `stop_when(row, ids so far)`.

    Finished rows leave the batch.
    """
    responses = Responses(max_tokens, temperatures, seeds, stop_ids, stop_when, record_logprobs)
    if not fast_paths(model).attention:
        plain_generation.generate(model, rows, responses, pad)
        return responses.generations()
    batch = DecodingBatch(model, rows, prefix, pad)
    most_steps = CUDA_STEPS if model.device.type == "cuda" else 1
    active = list(range(len(rows)))  # active[i]: the row at index i of the batch
    while active:
        last_B = _sample_steps(batch, responses, active, responses.steps(active, most_steps))
        unfinished = [index for index, row in enumerate(active) if responses.is_open(row)]
        if not unfinished:
            break
        if len(unfinished) < len(active):
            active = [active[index] for index in unfinished]
            indices = torch.tensor(unfinished, device=model.device)
            batch.select_rows(indices)
            last_B = last_B[indices]
        batch.step(last_B)
    return responses.generations()


def _sample_steps(
    batch: DecodingBatch, responses: Responses, active: Sequence[int], steps: int
) -> Tensor:
    """Sample `steps` tokens of each active row; returns the last ones (B,).

    The device gets all draws before and gives all tokens after: between them the host does not
    wait for it. What a row that has ended is given meanwhile is dropped.
    """
    draws = responses.draws(active, steps, batch.model.device)
    tokens: list[Tensor] = []
    logps: list[Tensor] = []
    for step in range(steps):
        if tokens:
            batch.step(tokens[-1])
        token_B, logp_B = draw(batch.logits(), draws, step)
        tokens.append(token_B)
        logps.append(logp_B)
    logp_BX = torch.stack(logps, 1) if responses.record_logprobs else None
    responses.extend(active, torch.stack(tokens, 1), logp_BX)
    return tokens[-1]


@torch.no_grad()
def option_logprobs(
    model: PreTrainedModel,
    rows: Sequence[TokenIds],
    options: Sequence[Sequence[TokenIds]],
    *,
    pad: int,
    prefix: Prefix | None = None,
) -> list[list[float]]:
    """For each row, log P(option | row) of each of its options, in nats.

    When all options are single tokens, one forward pass per row gives all of them. Otherwise the
    model runs once per option, and an option gets the sum of its tokens' log-probabilities.
    """
    if not fast_paths(model).attention:
        return plain_generation.option_logprobs(model, rows, options, pad)
    start = prefix.length if prefix else 0
    suffixes = [row[start:] for row in rows]
    if all(len(option) == 1 for row_options in options for option in row_options):
        return _single_token_logprobs(model, suffixes, options, pad, prefix)
    head = logit_head_fp32(model)
    pairs: list[tuple[list[int], list[int]]] = []
    for suffix, row_options in zip(suffixes, options, strict=True):
        pairs += [(list(suffix), list(option)) for option in row_options]
    inputs = [suffix + option[:-1] for suffix, option in pairs]
    scores = []
    for chunk, hidden_BTE in prefill(model, inputs, prefix, pad):
        for (_, option), hidden_TE in zip(pairs[chunk], hidden_BTE, strict=True):
            logp_NV = head(hidden_TE[-len(option) :]).log_softmax(-1)
            option_N1 = torch.tensor(option, device=logp_NV.device)[:, None]
            scores.append(float(logp_NV.gather(-1, option_N1).sum()))
    remaining = iter(scores)
    return [[next(remaining) for _ in row_options] for row_options in options]


def _single_token_logprobs(
    model: PreTrainedModel,
    rows: Sequence[TokenIds],
    options: Sequence[Sequence[TokenIds]],
    pad: int,
    prefix: Prefix | None,
) -> list[list[float]]:
    chunks = prefill(model, rows, prefix, pad)
    hidden_BE = torch.cat([hidden_BTE[:, -1] for _, hidden_BTE in chunks])
    logp_BV = logit_head_fp32(model)(hidden_BE).log_softmax(-1)
    return [
        [float(logp_BV[i, token]) for [token] in row_options]
        for i, row_options in enumerate(options)
    ]
