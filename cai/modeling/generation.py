"""Batched generation and option scoring on a transformers model: plain functions over token ids.

Rows are left-padded; positions follow each row's own tokens; one uniform number per row and step fixes the draw, so a row's
text depends on its seed and not on its neighbours.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from cai.modeling.attention import Prefix
from cai.modeling.batching import Ids, left_pad
from cai.modeling.kv_cache import growing_cache, reading
from cai.modeling.precision import autocast

READ_TOKENS = 4096
"""Prompt tokens a forward pass, padding included: more makes a pass neither faster on CPU nor its memory smaller."""


@dataclass(frozen=True)
class Generation:
    """Tokens of one reply, the stop token included when there is one."""

    ids: list[int]
    finished: bool


@torch.no_grad()
def prefill_prefix(model: PreTrainedModel, ids: Ids) -> Prefix:
    """Keys and values of `ids`, computed in one row."""
    cache = DynamicCache(config=model.config)
    with autocast(model.device):
        backbone(model)(input_ids=torch.tensor([list(ids)], device=model.device), past_key_values=cache, use_cache=True)
    return Prefix(len(ids), tuple((layer.keys[0].to(model.dtype), layer.values[0].to(model.dtype)) for layer in cache.layers))


def backbone(model: PreTrainedModel) -> Any:
    """The model without its language-model head: hidden states, (B, T, hidden)."""
    return model.base_model if not hasattr(model, "get_base_model") else model.get_base_model().base_model


def causal_mask(mask_BT: Tensor) -> Tensor:
    """(B, 1, T, T): a query sees real tokens up to itself; padding sees itself, so that its softmax is defined."""
    T = mask_BT.shape[1]
    causal_TT = torch.ones(T, T, dtype=torch.bool, device=mask_BT.device).tril()
    return ((mask_BT[:, None, :] & causal_TT) | torch.eye(T, dtype=torch.bool, device=mask_BT.device))[:, None]


def chunk_by_tokens(rows: Sequence[Ids], tokens: int) -> list[slice]:
    """Neighbouring rows cut into parts of at most `tokens` tokens, padding included, and of at least one row."""
    parts: list[slice] = []
    start, widest = 0, 0
    for i, row in enumerate(rows):
        widest = max(widest, len(row))
        if i > start and (i + 1 - start) * widest > tokens:
            parts.append(slice(start, i))
            start, widest = i, len(row)
    return [*parts, slice(start, len(rows))]


def forward(model: PreTrainedModel, ids_BT: Tensor, position_BT: Tensor, seen_B1QS: Tensor, **more: Any) -> Tensor:
    """Hidden states (B, T, E) of tokens whose places and whose view of the row's own tokens are given."""
    hidden_BTE: Tensor = backbone(model)(
        input_ids=ids_BT, position_ids=position_BT, attention_mask=seen_B1QS, **more
    ).last_hidden_state
    return hidden_BTE


def prefill(
    model: PreTrainedModel, rows: Sequence[Ids], prefix: Prefix | None, pad: int, cache: Cache | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Read whole prompts: (rows, their hidden states (b, t, E), left-padded) a part at a time, which bounds memory.

    `rows` come without what `prefix` holds. With a cache, keys and values are kept there.
    """
    start = prefix.length if prefix else 0
    for part in chunk_by_tokens(rows, READ_TOKENS):
        ids_BT, mask_BT = left_pad(rows[part], pad, model.device)
        position_BT = (mask_BT.cumsum(1) - 1).clamp(min=0) + start
        with autocast(model.device), nullcontext() if cache is None else reading(cache, part):
            hidden_BTE = forward(
                model,
                ids_BT,
                position_BT,
                causal_mask(mask_BT),
                past_key_values=cache,
                use_cache=cache is not None,
                prefix=prefix,
            )
        yield part, hidden_BTE.to(model.dtype)


class Batch:
    """Rows in the middle of being read and continued by one model. Rows can be dropped as they finish."""

    def __init__(self, model: PreTrainedModel, rows: Sequence[Ids], prefix: Prefix | None, pad: int) -> None:
        self.model, self.prefix = model, prefix
        start = prefix.length if prefix else 0
        own = [row[start:] for row in rows]
        self.mask_BT = left_pad(own, pad, model.device)[1]
        self.cache = growing_cache(model.config, model.dtype, *self.mask_BT.shape)
        self.hidden_BE = torch.cat([hidden_BTE[:, -1] for _, hidden_BTE in prefill(model, own, prefix, pad, self.cache)])
        self.next_position_B = self.mask_BT.sum(1) + start

    def step(self, ids_B: Tensor) -> None:
        """Read one more token per row, in the model's own format: converting weights would take longer than the step."""
        self.mask_BT = torch.cat([self.mask_BT, torch.ones(len(ids_B), 1, dtype=torch.bool, device=ids_B.device)], 1)
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

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these (indices)."""
        self.cache.batch_select_indices(rows)
        self.mask_BT, self.next_position_B = self.mask_BT[rows], self.next_position_B[rows]
        self.hidden_BE = self.hidden_BE[rows]

    def logits(self) -> Tensor:
        """(B, V), float32: what comes after the last token read. Good enough to draw from (see `lm_head_fp32`)."""
        logits_BV: Tensor = self.model.get_output_embeddings()(self.hidden_BE).float()
        return logits_BV


def lm_head_fp32(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """Hidden states -> logits with all bits: bfloat16 would round log-odds to steps of an eighth of a nat."""
    head: Any = model.get_output_embeddings()
    weight_VE = head.weight.float()
    bias_V = None if head.bias is None else head.bias.float()
    return lambda hidden_NE: torch.nn.functional.linear(hidden_NE.float(), weight_VE, bias_V)


def sample_tokens(logits_BV: Tensor, temperatures: Sequence[float], streams: Sequence[random.Random]) -> list[int]:
    """One token per row: the largest logit at temperature 0, else the distribution function inverted at one uniform number."""
    greedy_B = logits_BV.argmax(-1)
    if not any(temperatures):
        return greedy_B.tolist()
    device = logits_BV.device
    warm_B1 = torch.tensor([[t or 1.0] for t in temperatures], device=device)
    total_BV = (logits_BV / warm_B1).softmax(-1).cumsum(-1)
    # 1 - random() lies in (0, 1]: never before the first token with any probability; scaled, as cumsum ends near 1, not at it.
    uniform_B1 = torch.tensor([[1.0 - stream.random()] for stream in streams], device=device) * total_BV[:, -1:]
    drawn_B = torch.searchsorted(total_BV, uniform_B1).squeeze(1).clamp(max=logits_BV.shape[-1] - 1)
    return [int(d if t else g) for d, g, t in zip(drawn_B, greedy_B, temperatures, strict=True)]


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    rows: Sequence[Ids],
    *,
    max_tokens: Sequence[int],
    temperatures: Sequence[float],
    seeds: Sequence[int],
    stop_ids: frozenset[int],
    pad: int,
    prefix: Prefix | None = None,
    stop_when: Callable[[int, list[int]], bool] = lambda row, ids: False,
) -> list[Generation]:
    """Continue each row until a stop token, its `max_tokens`, or `stop_when(row, ids so far)`. Finished rows leave the batch."""
    drawn: list[list[int]] = [[] for _ in rows]
    ended = [False] * len(rows)
    streams = [random.Random(seed) for seed in seeds]
    batch = Batch(model, rows, prefix, pad)
    alive = list(range(len(rows)))
    while alive:
        tokens = sample_tokens(batch.logits(), [temperatures[i] for i in alive], [streams[i] for i in alive])
        going = []
        for place, (i, token) in enumerate(zip(alive, tokens, strict=True)):
            drawn[i].append(token)
            ended[i] = token in stop_ids or stop_when(i, drawn[i])
            if not ended[i] and len(drawn[i]) < max_tokens[i]:
                going.append(place)
        if len(going) < len(alive):
            alive = [alive[place] for place in going]
            if alive:
                batch.keep(torch.tensor(going, device=model.device))
        if alive:
            batch.step(torch.tensor([tokens[place] for place in going], device=model.device))
    return [Generation(ids, done) for ids, done in zip(drawn, ended, strict=True)]


@torch.no_grad()
def option_logprobs(
    model: PreTrainedModel, rows: Sequence[Ids], options: Sequence[Sequence[Ids]], *, pad: int, prefix: Prefix | None = None
) -> list[list[float]]:
    """For each row, log P(option | row) of each of its options, nats: one forward when all are single tokens.

    An option of several tokens gets the sum of its tokens' log-probabilities; such rows are read once per option.
    """
    head, start = lm_head_fp32(model), prefix.length if prefix else 0
    own = [row[start:] for row in rows]
    if all(len(option) == 1 for row in options for option in row):
        logp_BV = head(torch.cat([hidden_BTE[:, -1] for _, hidden_BTE in prefill(model, own, prefix, pad)])).log_softmax(-1)
        return [[float(logp_BV[i, option[0]]) for option in row] for i, row in enumerate(options)]
    flat = [(list(row), list(option)) for row, mine in zip(own, options, strict=True) for option in mine]
    scores = []
    for part, hidden_BTE in prefill(model, [row + option[:-1] for row, option in flat], prefix, pad):
        for (_, option), hidden_TE in zip(flat[part], hidden_BTE, strict=True):
            logp_NV = head(hidden_TE[-len(option) :]).log_softmax(-1)
            scores.append(float(logp_NV.gather(-1, torch.tensor(option, device=logp_NV.device)[:, None]).sum()))
    answers = iter(scores)
    return [[next(answers) for _ in row] for row in options]
