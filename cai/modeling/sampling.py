"""Tokens from logits, and what has been generated so far: the same for every way to run a model.

One uniform number per row and step determines the token that is sampled, so a row's text depends on
its seed and not on its neighbours.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Generation:
    """The tokens of one response, the stop token included when there is one."""

    ids: list[int]
    finished: bool
    logps: list[float] | None = None
    """Log-probability of each token at the sampling temperature, nats; None: not recorded."""


@dataclass
class Responses:
    """The responses to a list of prompts, one token longer with each call of `extend`.

    A response ends at a stop token, at its `max_tokens`, or at `stop_when(row, ids so far)`.
    """

    max_tokens: Sequence[int]
    temperatures: Sequence[float]
    seeds: Sequence[int]
    stop_ids: frozenset[int]
    stop_when: Callable[[int, list[int]], bool] = lambda row, ids: False
    record_logprobs: bool = False
    ids: list[list[int]] = field(init=False)
    logps: list[list[float]] = field(init=False)
    stopped: list[bool] = field(init=False)

    def __post_init__(self) -> None:
        self.ids = [[] for _ in self.seeds]
        self.logps = [[] for _ in self.seeds]
        self.stopped = [False for _ in self.seeds]
        self.streams = [random.Random(seed) for seed in self.seeds]

    def extend(self, rows: Sequence[int], logits_BV: Tensor) -> list[int]:
        """Sample one token for each of `rows`; returns the tokens."""
        temperatures = [self.temperatures[row] for row in rows]
        streams = [self.streams[row] for row in rows]
        token_B, logp_B = sample_tokens(logits_BV, temperatures, streams)
        tokens: list[int] = token_B.tolist()
        if self.record_logprobs:
            for row, logp in zip(rows, logp_B.tolist(), strict=True):
                self.logps[row].append(logp)
        for row, token in zip(rows, tokens, strict=True):
            self.ids[row].append(token)
            self.stopped[row] = token in self.stop_ids or self.stop_when(row, self.ids[row])
        return tokens

    def is_open(self, row: int) -> bool:
        """Whether the row's response goes on."""
        return not self.stopped[row] and len(self.ids[row]) < self.max_tokens[row]

    def generations(self) -> list[Generation]:
        return [
            Generation(ids, stopped, logps if self.record_logprobs else None)
            for ids, stopped, logps in zip(self.ids, self.stopped, self.logps, strict=True)
        ]


def sample_tokens(
    logits_BV: Tensor, temperatures: Sequence[float], streams: Sequence[random.Random]
) -> tuple[Tensor, Tensor]:
    """One token per row: the largest logit at temperature 0, else inverse-CDF sampling.

    Returns:
        (B,) tokens, and (B,) their log-probabilities at their row's temperature, nats; of
        temperature 0, at 1. Both come from one softmax: the vocabulary is the widest tensor of a
        step.
    """
    device = logits_BV.device
    temperature_B1 = torch.tensor([[t or 1.0] for t in temperatures], device=device)
    prob_BV = (logits_BV / temperature_B1).softmax(-1)
    if not any(temperatures):
        token_B = logits_BV.argmax(-1)
    else:
        token_B = inverse_cdf(prob_BV, [1.0 - stream.random() for stream in streams])
        if not all(temperatures):
            is_greedy_B = torch.tensor([not t for t in temperatures], device=device)
            token_B = torch.where(is_greedy_B, logits_BV.argmax(-1), token_B)
    return token_B, prob_BV.gather(-1, token_B[:, None]).squeeze(1).log()


def inverse_cdf(prob_BV: Tensor, uniforms: Sequence[float]) -> Tensor:
    """(B,) the first token at which each row's summed probability reaches its uniform number.

    Args:
        uniforms: in (0, 1]: never before the first token with any probability.
    """
    cdf_BV = prob_BV.cumsum(-1)
    uniform_B1 = torch.tensor(uniforms, device=prob_BV.device)[:, None]
    # scaled, as cumsum ends near 1, not at 1
    index_B1 = torch.searchsorted(cdf_BV, uniform_B1 * cdf_BV[:, -1:])
    return index_B1.squeeze(1).clamp(max=prob_BV.shape[-1] - 1)
