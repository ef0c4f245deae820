"""Items that a model answers and a grader gives values to: the shape that evaluations of replies
share.

An evaluation is its items, a grader, and a function from graded replies to scores. Left out: where
items come from, and where replies are kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cai.errors import UnansweredError
from cai.evals.replies import NO_SAMPLE, EvalConfig, sample_reply
from cai.lm.base import LM, Sample
from cai.records import Chat, Prompt, Score, ScoredReply
from cai.statistics.estimates import estimate


@dataclass(frozen=True)
class GradedItem:
    """One reply to draw."""

    prompt: Prompt
    """Errors are over prompts: items of one prompt are one cluster."""
    chat: Chat
    """What the model is given: the prompt, perhaps under an instruction or a template."""
    draw: int = 0
    condition: str = ""
    group: str = ""
    turn: int | None = None
    """`ScoredReply.turn`"""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the grader needs to know, and the model is not given."""

    @property
    def id(self) -> str:
        return f"{self.prompt.id}/{self.condition}/{self.draw}"


class Verdict(NamedTuple):
    """The values of one reply, or the reason why there are none."""

    values: Mapping[str, float | None]
    unscored: str | None = None
    graded_text: str | None = None
    """`ScoredReply.graded_text`"""


Grader = Callable[[GradedItem, Sample], Awaitable[Verdict]]
ScoreRows = Callable[[Sequence[ScoredReply]], list[Score]]


@dataclass(frozen=True)
class ReplyEvaluation:
    """One evaluation, ready to run."""

    items: Sequence[GradedItem]
    grader: Grader
    scores: ScoreRows
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What decides the values besides items, model and sampling."""


def scored_item_id(row: ScoredReply) -> str:
    """`GradedItem.id` of the item that a row answers."""
    return f"{row.source}/{row.condition}/{row.draw}"


def scored_reply_step(
    subject: str, lm: LM, grader: Grader, config: EvalConfig, seed: int
) -> Callable[[GradedItem], Awaitable[ScoredReply]]:
    """The step that answers and grades one item.

    A draw has the same seed under all conditions and for all subjects, so that differences are
    paired. An item without an answer has no values and the reason.
    """

    async def step(item: GradedItem) -> ScoredReply:
        sample = NO_SAMPLE
        try:
            address = (item.prompt.id, item.draw)
            sample = await sample_reply(lm, item.chat, config, seed, address)
            verdict = await grader(item, sample)
        except UnansweredError as error:
            verdict = Verdict({}, error.reason)
        return scored_reply(item, subject, sample, verdict)

    return step


def scored_reply(item: GradedItem, subject: str, sample: Sample, verdict: Verdict) -> ScoredReply:
    """The row of an item."""
    return ScoredReply(
        source=item.prompt.id,
        subject=subject,
        chat=item.chat,
        condition=item.condition,
        group=item.group,
        draw=item.draw,
        turn=item.turn,
        response=sample.text,
        finished=sample.finished,
        graded_text=verdict.graded_text,
        values=dict(verdict.values),
        unscored=verdict.unscored,
    )


def mean_over_prompts(
    metric: str, rows: Sequence[ScoredReply], key: str, *, proportion: bool = True
) -> list[Score]:
    """The mean of one value with prompts as clusters, for each subject; none without rows.

    Args:
        key: of the value in `ScoredReply.values`; rows without it count as unscored.
    """
    scores = []
    for subject in dict.fromkeys(row.subject for row in rows):
        chosen = [row for row in rows if row.subject == subject]
        values = [row.values.get(key) for row in chosen]
        prompts = [row.source for row in chosen]
        scores.append(estimate(metric, subject, values, prompts, proportion=proportion))
    return scores


def highest_of_each_prompt(
    metric: str,
    rows: Sequence[ScoredReply],
    key: str,
    by: Callable[[ScoredReply], object],
    *,
    proportion: bool = True,
) -> list[Score]:
    """The mean over prompts of the highest mean among a prompt's parts, for each subject.

    Args:
        key: of the value in `ScoredReply.values`. A part without a known value does not count; a
            prompt without such a part is unscored.
        by: what divides a prompt's rows into parts, such as the draw or the condition.
    """
    scores = []
    for subject in dict.fromkeys(row.subject for row in rows):
        parts: dict[str, dict[object, list[float]]] = {}
        for row in rows:
            if row.subject == subject:
                values = parts.setdefault(row.source, {}).setdefault(by(row), [])
                value = row.values.get(key)
                values += [] if value is None else [value]
        highest = [
            max((sum(part) / len(part) for part in of_prompt.values() if part), default=None)
            for of_prompt in parts.values()
        ]
        scores.append(estimate(metric, subject, highest, proportion=proportion))
    return scores
