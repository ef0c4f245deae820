"""Batched generation and option scoring on a transformers model: functions over token ids.

A model that `decoding.py` does not suit runs as transformers alone runs it (`plain_generation.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cai.modeling import plain_generation
from cai.modeling.attention import Prefix
from cai.modeling.batching import TokenIds
from cai.modeling.decoding import DecodingBatch, prefill
from cai.modeling.fast_paths import fast_paths
from cai.modeling.logits import logit_head_fp32
from cai.modeling.sampling import Generation, Responses, draw

CUDA_STEPS = 8
"""Tokens that a GPU samples before the host looks for rows that have ended: each look waits for it.
On a CPU there is nothing to wait for, and every token is looked at.
"""


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

    Finished rows leave the batch, or are given tokens that count for nothing.
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
        if batch.is_worth_dropping(len(active) - len(unfinished)):
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
