"""Replies of several subjects to the same prompts, and verdicts on pairs of them.

A subject may begin with turns of its own: a system turn, or worked examples. That is the prompted
baseline of arXiv:2203.02155, section 3.5.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import combinations

from pydantic import Field

from cai.data.turns import with_turns
from cai.evals.replies import EvalConfig, reply_or_reason
from cai.generate.label_config import LabelConfig
from cai.lm.base import LM
from cai.records import (
    Chat,
    FrozenModel,
    Pair,
    Preference,
    Probability,
    PromptDraw,
    Row,
    Vote,
)

COMPARISON_LABEL = LabelConfig.model_validate({"preset": "direct"})
"""How a judge compares, where nothing else is said: it is asked which reply is better."""


class SubjectReply(Row):
    """One reply of a subject."""

    source: str
    subject: str
    draw: int = Field(ge=0)
    response: str
    finished: bool
    unanswered: str | None = None
    """The reason why there is no reply."""


class JudgedPair(Row):
    """One verdict on the replies of two subjects to one prompt."""

    source: str
    draw: int = Field(0, ge=0)
    category: str | None = None
    subjects: tuple[str, str]
    pair: str | None = None
    """`Pair.id` of the two replies; None: a verdict of people, who may have seen others."""
    words: tuple[int, int] | None = None
    p_first: Probability | None
    """P(the first subject's reply is better): one half for two equal replies. None: unknown."""
    votes: tuple[Vote, ...] = ()
    unscored: str | None = None


class ComparisonItem(FrozenModel):
    """One pair of replies to judge."""

    pair: Pair
    subjects: tuple[str, str]
    draw: int
    category: str | None

    @property
    def id(self) -> str:
        return _item_id(self.pair.id, self.subjects, self.draw)


def reply_id(reply: SubjectReply) -> str:
    """`PromptDraw.id` of the item that a reply answers."""
    return f"{reply.source}/{reply.draw}"


def comparison_id(row: JudgedPair) -> str:
    """`ComparisonItem.id` of the item that a verdict is about."""
    return _item_id(row.pair or "", row.subjects, row.draw)


def _item_id(pair: str, subjects: tuple[str, str], draw: int) -> str:
    return f"{pair}/{'/'.join(subjects)}/{draw}"


def subject_step(
    subject: str, lm: LM, turns: Chat, config: EvalConfig, seed: int
) -> Callable[[PromptDraw], Awaitable[SubjectReply]]:
    """The step that answers one item."""

    async def reply(item: PromptDraw) -> SubjectReply:
        prompt = item.prompt
        chat, address = with_turns(turns, prompt.chat), (prompt.id, item.draw)
        sample, reason = await reply_or_reason(lm, chat, config, seed, address)
        return SubjectReply(
            source=prompt.id,
            subject=subject,
            draw=item.draw,
            response=sample.text,
            finished=sample.finished,
            unanswered=reason,
        )

    return reply


def comparison_items(
    draws: Sequence[PromptDraw], replies: Mapping[str, Mapping[str, SubjectReply]]
) -> list[ComparisonItem]:
    """Every two subjects' replies to each prompt and draw.

    Args:
        replies: subject -> `PromptDraw.id` -> reply.
    """
    items: list[ComparisonItem] = []
    for item in draws:
        for first, second in combinations(replies, 2):
            a, b = replies[first][item.id], replies[second][item.id]
            pair = Pair(
                source=item.prompt.id,
                chat=item.prompt.chat,
                first=a.response,
                second=b.response,
                unscored=a.unanswered or b.unanswered,
            )
            items.append(
                ComparisonItem(
                    pair=pair,
                    subjects=(first, second),
                    draw=item.draw,
                    category=item.prompt.category,
                )
            )
    return items


def comparison_step(
    label: Callable[[Pair], Awaitable[Preference]],
) -> Callable[[ComparisonItem], Awaitable[JudgedPair]]:
    """The step that judges one item.

    Args:
        label: as `cai.generate.label.labeller` makes it: in both orders.
    """

    async def compare(item: ComparisonItem) -> JudgedPair:
        pair = item.pair
        same = pair.unscored is None and pair.first.strip() == pair.second.strip()
        # a judge has nothing to say about two equal replies: neither is better
        verdict = Preference(source=pair.id, p_first=0.5) if same else await label(pair)
        return JudgedPair(
            source=pair.source,
            draw=item.draw,
            category=item.category,
            subjects=item.subjects,
            pair=pair.id,
            words=(len(pair.first.split()), len(pair.second.split())),
            p_first=verdict.p_first,
            votes=verdict.votes,
            unscored=verdict.unscored,
        )

    return compare
