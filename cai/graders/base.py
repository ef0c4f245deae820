"""What a grader is: a function from an item and the reply to it, to values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from cai.lm.base import Sample
from cai.records import Chat, Prompt, ScoredReply


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


def every_draw(items: Iterable[GradedItem], draws: int) -> list[GradedItem]:
    """Every item `draws` times."""
    return [replace(item, draw=draw) for item in items for draw in range(draws)]


def plain_items(prompts: Iterable[Prompt], draws: int) -> list[GradedItem]:
    """Every prompt `draws` times, as it is."""
    return every_draw((GradedItem(prompt, prompt.chat) for prompt in prompts), draws)


class Verdict(NamedTuple):
    """The values of one reply, or the reason why there are none."""

    values: Mapping[str, float | None]
    unscored: str | None = None
    graded_text: str | None = None
    """`ScoredReply.graded_text`"""


Grader = Callable[[GradedItem, Sample], Awaitable[Verdict]]


def scored_item_id(row: ScoredReply) -> str:
    """`GradedItem.id` of the item that a row answers."""
    return f"{row.source}/{row.condition}/{row.draw}"


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
