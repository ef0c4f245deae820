"""Generation and option scoring on transformers' own attention, masks and cache.

For models that `generation.py` would compute otherwise. `generate` of transformers runs the model;
the tokens are sampled here, so a seed means the same on both ways.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation import StoppingCriteriaList

from cai.modeling.batching import TokenIds, chunk_by_tokens, left_pad, right_pad
from cai.modeling.fast_paths import backbone, fast_paths
from cai.modeling.logits import logit_head_fp32
from cai.modeling.precision import autocast
from cai.modeling.sampling import Responses

DECODING_TOKENS = 8192
"""Tokens a batch, responses and padding included: each row has a cache of its whole prompt."""
SCORING_TOKENS = 4096
"""Tokens a forward pass, padding included."""


class _Tokens:
    """A logits processor that samples as this package does, and leaves one possible token."""

    def __init__(self, responses: Responses, rows: Sequence[int], pad: int) -> None:
        self.responses, self.rows, self.pad = responses, rows, pad

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        is_open = [self.responses.is_open(row) for row in self.rows]
        indices = [i for i, is_row_open in enumerate(is_open) if is_row_open]
        tokens_B = torch.full((len(self.rows),), self.pad, device=scores.device)
        drawn = self.responses.sample([self.rows[i] for i in indices], scores[indices].float())
        tokens_B[indices] = torch.tensor(drawn, device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens_B[:, None], 0.0)

    def is_done(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        done = [not self.responses.is_open(row) for row in self.rows]
        return torch.tensor(done, device=input_ids.device)


def generate(
    model: PreTrainedModel, rows: Sequence[TokenIds], responses: Responses, pad: int
) -> None:
    """Complete the responses to `rows`, in batches where padding changes nothing."""
    longest = max(responses.max_tokens)
    sizes = [range(len(row) + longest) for row in rows]
    chunks = chunk_by_tokens(sizes, DECODING_TOKENS)
    if not fast_paths(model).batches:
        chunks = [slice(i, i + 1) for i in range(len(rows))]
    with _bare_generation_config(model):
        for chunk in chunks:
            _generate_chunk(model, rows, chunk, responses, pad)


def _generate_chunk(
    model: PreTrainedModel, rows: Sequence[TokenIds], chunk: slice, responses: Responses, pad: int
) -> None:
    ids_BT, mask_BT = left_pad(rows[chunk], pad, model.device)
    tokens = _Tokens(responses, range(chunk.start, chunk.stop), pad)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max(1, *responses.max_tokens[chunk]),
        pad_token_id=pad,
        use_cache=True,
    )
    model.generate(
        input_ids=ids_BT,
        attention_mask=mask_BT.long(),
        generation_config=config,
        logits_processor=LogitsProcessorList([tokens]),
        stopping_criteria=StoppingCriteriaList([tokens.is_done]),
    )


@contextlib.contextmanager
def _bare_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """Inside, nothing but the temperature shapes the distribution: many models come with a top-p or
    a penalty of repetition.
    """
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def option_logprobs(
    model: PreTrainedModel,
    rows: Sequence[TokenIds],
    options: Sequence[Sequence[TokenIds]],
    pad: int,
) -> list[list[float]]:
    """For each row, log P(option | row) of each of its options, in nats.

    Rows are padded on the right, where a causal model cannot see it.
    """
    head = logit_head_fp32(model)
    inputs_of = [
        [(*row, *option[:-1]) for option in row_options]
        for row, row_options in zip(rows, options, strict=True)
    ]
    # options of one token share a pass
    inputs = list(dict.fromkeys(ids for row_inputs in inputs_of for ids in row_inputs))
    longest = max((len(option) for row_options in options for option in row_options), default=1)
    states: dict[tuple[int, ...], Tensor] = {}
    for chunk in chunk_by_tokens(inputs, SCORING_TOKENS):
        for ids, hidden_TE in zip(
            inputs[chunk], hidden_rows(model, inputs[chunk], pad), strict=True
        ):
            states[ids] = hidden_TE[len(ids) - min(longest, len(ids)) : len(ids)].clone()

    def logprob(ids: tuple[int, ...], option: TokenIds) -> float:
        logp_NV = head(states[ids][-len(option) :]).log_softmax(-1)
        option_N1 = torch.tensor(list(option), device=logp_NV.device)[:, None]
        return float(logp_NV.gather(-1, option_N1).sum())

    return [
        [logprob(ids, option) for ids, option in zip(row_inputs, row_options, strict=True)]
        for row_inputs, row_options in zip(inputs_of, options, strict=True)
    ]


def hidden_rows(model: PreTrainedModel, rows: Sequence[TokenIds], pad: int) -> Tensor:
    """(B, T, E) of right-padded rows."""
    ids_BT, _ = right_pad(rows, pad, model.device)
    with autocast(model.device):
        hidden_BTE: Tensor = backbone(model)(input_ids=ids_BT, use_cache=False).last_hidden_state
    return hidden_BTE.to(model.dtype)
