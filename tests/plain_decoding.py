"""Literal decoding, one unpadded row at a time without a cache: what fast decoding must equal."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

START, END = 256, 257
"""The control tokens of `toys.tiny_tokenizer`."""


def load_plain(folder: Path) -> Any:
    """A model as transformers alone loads it, with its most literal attention."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def random_rows(*lengths: int, seed: int = 0, head: Sequence[int] = ()) -> list[list[int]]:
    """`head` and then random bytes, as many as `lengths` says."""
    stream = random.Random(seed)
    return [[*head, *(stream.randrange(256) for _ in range(length))] for length in lengths]


@torch.no_grad()
def next_logp(plain: Any, ids: Sequence[int]) -> torch.Tensor:
    """log P(token | ids), (V,)."""
    ids_1T = torch.tensor([list(ids)])
    logp_V: torch.Tensor = plain(ids_1T, use_cache=False).logits[0, -1].log_softmax(-1)
    return logp_V


def greedy(plain: Any, ids: Sequence[int], count: int, stop: int = END) -> list[int]:
    """At most `count` tokens of largest probability, up to and with `stop`."""
    generated: list[int] = []
    while len(generated) < count and (not generated or generated[-1] != stop):
        generated.append(int(next_logp(plain, [*ids, *generated]).argmax()))
    return generated


def option_logprob(plain: Any, row: list[int], option: list[int]) -> float:
    """log P(option | row), nats."""
    logps = [float(next_logp(plain, [*row, *option[:i]])[token]) for i, token in enumerate(option)]
    return sum(logps)
