"""Tokens from logits, and what has been generated so far: the same for every way to run a model.

One uniform number per row and step determines the token that is sampled, so a row's text depends on
its seed and not on its neighbours.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Generation:
    """The tokens of one response, the stop token included when there is one."""

    ids: list[int]
    finished: bool
    logps: list[float] | None = None
    """Log-probability of each token at the sampling temperature, nats; None: not recorded."""


class Draws(NamedTuple):
    """Temperatures and uniform numbers of some rows, on the device. Both None: all are greedy."""

    temperature_B1: Tensor | None
    uniform_BX: Tensor | None
    """A column for each step."""
    has_greedy_rows: bool = False


@dataclass
class Responses:
    """The responses to a list of prompts, longer with each call of `extend`.

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

    def draws(self, rows: Sequence[int], steps: int, device: torch.device) -> Draws:
        """What determines the next `steps` tokens of `rows`, in one copy to the device.

        A row that ends within them needs no further number of its stream.
        """
        temperatures = [self.temperatures[row] for row in rows]
        if not any(temperatures):
            return Draws(None, None)
        uniforms = [[1.0 - self.streams[row].random() for _ in range(steps)] for row in rows]
        values_BX = torch.tensor(
            [[t, *uniform] for t, uniform in zip(temperatures, uniforms, strict=True)],
            dtype=torch.float32,
        ).to(device, non_blocking=True)
        return Draws(values_BX[:, :1], values_BX[:, 1:], not all(temperatures))

    def steps(self, rows: Sequence[int], most: int) -> int:
        """Tokens that may be sampled before an open row reaches its limit, at most `most`; at
        least 1.
        """
        left = [self.max_tokens[row] - len(self.ids[row]) for row in rows if self.is_open(row)]
        return max(1, min([most, *left]))

    def sample(self, rows: Sequence[int], logits_BV: Tensor) -> list[int]:
        """Sample one token for each of `rows`, and append it; returns the tokens."""
        draws = self.draws(rows, 1, logits_BV.device)
        token_B, logp_B = draw(logits_BV, draws, 0)
        self.extend(rows, token_B[:, None], logp_B[:, None] if self.record_logprobs else None)
        return [self.ids[row][-1] for row in rows]

    def extend(self, rows: Sequence[int], tokens_BX: Tensor, logp_BX: Tensor | None) -> None:
        """Append the tokens of `rows` up to the one that ends a row; here the host waits.

        A row that has ended before stays as it is.
        """
        logps = [None] * len(rows) if logp_BX is None else logp_BX.tolist()
        for row, tokens, row_logps in zip(rows, tokens_BX.tolist(), logps, strict=True):
            if self.ids[row] and not self.is_open(row):
                continue
            for step, token in enumerate(tokens):
                self.ids[row].append(token)
                if row_logps is not None:
                    self.logps[row].append(row_logps[step])
                self.stopped[row] = token in self.stop_ids or self.stop_when(row, self.ids[row])
                if self.stopped[row]:
                    break

    def is_open(self, row: int) -> bool:
        """Whether the row's response goes on."""
        return not self.stopped[row] and len(self.ids[row]) < self.max_tokens[row]

    def generations(self) -> list[Generation]:
        return [
            Generation(ids, stopped, logps if self.record_logprobs else None)
            for ids, stopped, logps in zip(self.ids, self.stopped, self.logps, strict=True)
        ]


def draw(logits_BV: Tensor, draws: Draws, step: int) -> tuple[Tensor, Tensor]:
    """One token per row: the largest logit at temperature 0, else inverse-CDF sampling. Nothing
    here waits for the device.

    Returns:
        (B,) tokens, and (B,) their log-probabilities at their row's temperature, nats; of
        temperature 0, at 1. Both come from one softmax: the vocabulary is the widest tensor of a
        step.
    """
    if draws.temperature_B1 is None or draws.uniform_BX is None:
        prob_BV, token_B = logits_BV.softmax(-1), logits_BV.argmax(-1)
    else:
        temperature_B1 = draws.temperature_B1
        prob_BV = (logits_BV / torch.where(temperature_B1 > 0, temperature_B1, 1.0)).softmax(-1)
        token_B = inverse_cdf(prob_BV, draws.uniform_BX[:, step : step + 1])
        if draws.has_greedy_rows:
            is_sampled_B = temperature_B1.squeeze(1) > 0
            token_B = torch.where(is_sampled_B, token_B, logits_BV.argmax(-1))
    return token_B, prob_BV.gather(-1, token_B[:, None]).squeeze(1).log()


def inverse_cdf(prob_BV: Tensor, uniform_B1: Tensor) -> Tensor:
    """(B,) the first token at which each row's summed probability reaches its uniform number.

    Args:
        uniform_B1: in (0, 1]: never before the first token with any probability.
    """
    cdf_BV = prob_BV.cumsum(-1)
    # scaled, as cumsum ends near 1, not at 1
    index_B1 = torch.searchsorted(cdf_BV, uniform_B1 * cdf_BV[:, -1:])
    return index_B1.squeeze(1).clamp(max=prob_BV.shape[-1] - 1)
