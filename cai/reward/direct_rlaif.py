"""Direct RLAIF: a model's own rating of a reply is its reward, without a preference model (arXiv:2309.00267)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from cai import templates
from cai.async_map import gather
from cai.errors import UnansweredError
from cai.lm.base import LM
from cai.records import Chat, Prompt

Rate = Callable[[Sequence[Prompt], Sequence[str]], list[float | None]]
"""(prompts, replies) -> a reward in [-1, 1] per reply; None: the judge gave none."""


def expectation(logprobs: Sequence[float]) -> float:
    """The mean rating of a scale whose lowest step is -1 and whose highest is 1, from the steps' log-probabilities.

    With i = 1 ... n and P normalised over the n steps: 2 (sum_i i P(i) - 1) / (n - 1) - 1.
    """
    highest = max(logprobs)
    weights = [math.exp(x - highest) for x in logprobs]
    steps = len(weights) - 1
    mean = min(
        sum(i * w for i, w in enumerate(weights)) / sum(weights), steps
    )  # rounding may pass it
    return 2 * mean / steps - 1


async def rate(judge: LM, chat: Chat, reply: str) -> float | None:
    """What `judge` thinks of one reply, in [-1, 1]; None when it says nothing, or names no step of the scale."""
    try:
        told = await judge.choice_logprobs(
            templates.rating_chat(chat, reply), templates.STEPS, prefill=templates.RATING
        )
    except UnansweredError:
        return None
    return None if told is None else expectation(told)


def rater(judge: LM) -> Rate:
    """`rate` for many replies at once, to be called from outside an event loop."""

    def rated(prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float | None]:
        async def all_of_them() -> list[float | None]:
            try:
                return await gather(
                    [rate(judge, p.chat, r) for p, r in zip(prompts, replies, strict=True)]
                )
            finally:
                await judge.aclose()

        return asyncio.run(all_of_them())

    return rated
