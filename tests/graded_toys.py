"""Graded replies for tests: rows by hand, and rows that a fake model and a grader make."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cai.evals.replies import EvalConfig, scored_reply_step
from cai.graders.base import GradedItem, Grader
from cai.lm import FakeLM
from cai.records import Chat, Score, ScoredReply, chat_of


def row(
    source: str, draw: int, condition: str = "", group: str = "", **values: float | None
) -> ScoredReply:
    """A reply of the subject `m` with these values; without any it is unscored."""
    return ScoredReply(
        source=source,
        subject="m",
        chat=chat_of(("user", "q")),
        condition=condition,
        group=group,
        draw=draw,
        response="r",
        finished=True,
        values=values,
        unscored=None if values else "no answer",
    )


def echo_of_prompt(chat: Chat, seed: int) -> str:
    return f"echo {chat[-1].content}"


def graded(
    items: Sequence[GradedItem], grader: Grader, lm: FakeLM | None = None
) -> list[ScoredReply]:
    """The rows of the items, answered with their own text or by `lm`."""
    step = scored_reply_step("m", lm or FakeLM(echo_of_prompt), grader, EvalConfig(), 0)

    async def run() -> list[ScoredReply]:
        return await asyncio.gather(*(step(item) for item in items))

    return asyncio.run(run())


def metric_of(scores: Sequence[Score], name: str) -> Score:
    """The score of this name."""
    (score,) = [score for score in scores if score.metric == name]
    return score
