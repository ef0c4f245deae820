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
from torch.nn.functional import cross_entropy


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
        tokens = sample_tokens(logits_BV, temperatures, [self.streams[row] for row in rows])
        if self.record_logprobs:
            chosen = chosen_logprobs(logits_BV, temperatures, tokens)
            for row, logp in zip(rows, chosen, strict=True):
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
) -> list[int]:
    """One token per row: the largest logit at temperature 0, else inverse-CDF sampling."""
    greedy_B = logits_BV.argmax(-1)
    if not any(temperatures):
        return greedy_B.tolist()
    device = logits_BV.device
    temperature_B1 = torch.tensor([[t or 1.0] for t in temperatures], device=device)
    cdf_BV = (logits_BV / temperature_B1).softmax(-1).cumsum(-1)
    # 1 - random() lies in (0, 1]: never before the first token with any probability. It is scaled,
    # as cumsum ends near 1, not at 1.
    uniform_B1 = torch.tensor([[1.0 - stream.random()] for stream in streams], device=device)
    last_token = logits_BV.shape[-1] - 1
    index_B1 = torch.searchsorted(cdf_BV, uniform_B1 * cdf_BV[:, -1:])
    sampled_B = index_B1.squeeze(1).clamp(max=last_token)
    return [
        int(sampled if temperature else greedy)
        for sampled, greedy, temperature in zip(sampled_B, greedy_B, temperatures, strict=True)
    ]


def chosen_logprobs(
    logits_BV: Tensor, temperatures: Sequence[float], tokens: Sequence[int]
) -> list[float]:
    """Log-probability of each row's token at its temperature, nats; of temperature 0, at 1."""
    temperature_B1 = torch.tensor([[t or 1.0] for t in temperatures], device=logits_BV.device)
    tokens_B = torch.tensor(tokens, device=logits_BV.device)
    logp_B = -cross_entropy(logits_BV / temperature_B1, tokens_B, reduction="none")
    return logp_B.tolist()
