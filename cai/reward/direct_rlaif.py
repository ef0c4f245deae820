"""Direct RLAIF: a model's rating of a reply as its reward, without a preference model.

Source: arXiv:2309.00267.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cai import templates
from cai.async_map import gather, run_sync
from cai.errors import UnansweredError
from cai.lm.base import LM
from cai.records import Chat, Prompt

Rate = Callable[[Sequence[Prompt], Sequence[str]], list[float | None]]
"""(prompts, replies) -> a reward in [-1, 1] per reply; None: the judge gave no rating."""


def expected_rating(logprobs: Sequence[float]) -> float:
    """The expected rating on a scale from -1 (lowest step) to 1 (highest step).

        E = 2 (sum_i i P(i) - 1) / (n - 1) - 1      i = 1 ... n, P normalised over the n steps

    Args:
        logprobs: of the steps, lowest first; they need not be normalised.
    """
    highest = max(logprobs)
    weights = [math.exp(x - highest) for x in logprobs]
    last_step = len(weights) - 1
    mean = sum(i * w for i, w in enumerate(weights)) / sum(weights)
    mean = min(mean, last_step)  # rounding may exceed the last step
    return 2 * mean / last_step - 1


async def rate(judge: LM, chat: Chat, reply: str) -> float | None:
    """The judge's rating of one reply, in [-1, 1]; None: no answer, or no step of the scale."""
    try:
        logprobs = await judge.choice_logprobs(
            templates.rating_chat(chat, reply), templates.RATING_DIGITS, prefill=templates.RATING
        )
    except UnansweredError:
        return None
    return None if logprobs is None else expected_rating(logprobs)


def batch_rater(judge: LM) -> Rate:
    """`rate` over many replies concurrently."""

    def rate_batch(prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float | None]:
        async def rate_all() -> list[float | None]:
            try:
                return await gather(
                    [rate(judge, p.chat, r) for p, r in zip(prompts, replies, strict=True)]
                )
            finally:
                await judge.aclose()

        return run_sync(rate_all())

    return rate_batch
