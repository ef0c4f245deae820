"""Sampler against learner: log-probabilities as tokens were sampled, and as the update computes
them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cai.train.distributed import rank
from cai.train.ppo.rollout import Rollout

MAX_SAMPLER_GAP = 0.1
"""Nats a token. Products in bfloat16 instead of float32 make a few hundredths."""


def sampler_gap(rollouts: Sequence[Rollout], logps: Sequence[Tensor]) -> float | None:
    """Mean over tokens of |log p_learner - log p_sampler|, nats; None where no log-probability was
    recorded while sampling.

    Both are of one policy, before the first step. What differs is the arithmetic (number format,
    kernels, shapes), or there is a mistake.

    Args:
        logps: (T,) of each rollout's tokens, as the learner computes them.
    """
    gaps = [
        (logp_T - torch.tensor(rollout.sampler_logps, device=logp_T.device)).abs()
        for rollout, logp_T in zip(rollouts, logps, strict=True)
        if rollout.sampler_logps is not None
    ]
    return float(torch.cat(gaps).mean()) if gaps else None


def warn_of_sampler_gap(history: Sequence[Mapping[str, Any]]) -> None:
    """A line on standard error where the newest update is the run's first with a large gap."""
    large = [i for i, row in enumerate(history) if (row.get("sampler_gap") or 0) > MAX_SAMPLER_GAP]
    if rank() == 0 and large == [len(history) - 1]:
        row = history[-1]
        print(
            f"ppo: update {row['update']}: the sampler's log-probabilities are "
            f"{row['sampler_gap']:.2g} nats a token from the policy's, more than "
            f"{MAX_SAMPLER_GAP:g}: what is sampled is not what is trained "
            "(another number format, or wrong weights)",
            file=sys.stderr,
        )
