"""The composite reward of a reply: a table of named, weighted parts, before they are summed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from cai.modeling.thoughts import split_thoughts
from cai.records import FrozenModel, Prompt
from cai.reward import penalties
from cai.reward.direct_rlaif import Rate
from cai.reward.scale import ReplyScorer
from cai.rubric import CompiledRubric, Ungraded, grade_many

if TYPE_CHECKING:
    from cai.reward.relevance import Relevance


class RewardWeights(FrozenModel):
    """Weights of the parts; a part of weight 0 is not computed."""

    pm: float = Field(1.0, ge=0)
    """Of the preference model's reward (variance 1 over the reference policy's replies)."""
    rubric: float = Field(1.0, ge=0)
    """Of the rubric's score. It applies to prompts whose `kind` is known
    (arXiv:2411.01111: safety-relevant prompts only)."""
    direct: float = Field(0.0, ge=0)
    """Of the judge's rating of a reply, in [-1, 1] (direct RLAIF, arXiv:2309.00267).
    It replaces `pm` or is added to it."""
    relevance: float = Field(0.0, ge=0)
    """Of how much more likely a reply is after its prompt than after others, nats a token, in
    [-1, 1], under the reference policy. Prompts that are to be refused or supported get 0: a good
    refusal suits many of them. Takes three more forward passes a reply."""
    length: float = Field(0.0, ge=0)
    """Taken off per hundred words beyond `free_words`: preference models have a length bias."""
    free_words: int = Field(150, ge=0)
    format: float = Field(0.0, ge=0)
    """Taken off for each formatting fault: see `penalties.format_faults`."""

    @model_validator(mode="after")
    def _some_weight_is_positive(self) -> RewardWeights:
        weights = (self.pm, self.rubric, self.direct, self.relevance, self.length, self.format)
        if not any(weights):
            raise ValueError(
                "every weight is 0, which leaves no reward; "
                "give pm, rubric, direct, relevance, length or format a positive weight"
            )
        return self


@dataclass(frozen=True)
class Scorers:
    """What computes the parts; a part without its scorer is left out."""

    preference_model: ReplyScorer | None = None
    rubric: CompiledRubric | None = None
    rate: Rate | None = None
    """The judge of direct RLAIF."""
    relevance: Relevance | None = None


def reward_parts(
    prompts: Sequence[Prompt],
    replies: Sequence[str],
    scorers: Scorers,
    weights: RewardWeights,
    finished: Sequence[bool] | None = None,
) -> dict[str, list[float | None]]:
    """Every part of the reward of every reply.

    A part is left out of the table when its weight is 0 or its scorer is None.

    Args:
        replies: their thoughts are not scored.
        finished: whether the model ended each reply; None: not known.

    Returns:
        Part -> one weighted value per reply. None: the part could not score that reply.
        For a prompt without a kind the rubric's part is 0.
    """
    replies = [split_thoughts(reply).text for reply in replies]
    table: dict[str, list[float | None]] = {}
    model, rubric = scorers.preference_model, scorers.rubric
    if weights.pm and model is not None:
        rows = [
            model.rows(prompt.chat, reply) for prompt, reply in zip(prompts, replies, strict=True)
        ]
        scores = model.score_within_window(rows)
        table["pm"] = weighted(scores, weights.pm)
    if weights.rubric and rubric is not None:
        endings: Sequence[bool | None] = finished or [None] * len(replies)
        graded = grade_many(
            rubric,
            [
                Ungraded(prompt.chat[-1].content, reply, prompt.kind, ended)
                for prompt, reply, ended in zip(prompts, replies, endings, strict=True)
                if prompt.kind is not None
            ],
        )
        values = iter(weighted([grade.score for grade in graded], weights.rubric))
        table["rubric"] = [0.0 if prompt.kind is None else next(values) for prompt in prompts]
    if weights.direct and scorers.rate is not None:
        table["direct"] = weighted(scorers.rate(prompts, replies), weights.direct)
    if weights.relevance and scorers.relevance is not None:
        relevances = scorers.relevance(prompts, replies)
        table["relevance"] = [
            0.0 if prompt.kind in ("disallowed", "sensitive") else value
            for prompt, value in zip(prompts, weighted(relevances, weights.relevance), strict=True)
        ]
    if weights.length:
        excess = [penalties.length_excess(reply, weights.free_words) for reply in replies]
        table["length"] = weighted(excess, -weights.length)
    if weights.format:
        faults = [float(len(penalties.format_faults(reply))) for reply in replies]
        table["format"] = weighted(faults, -weights.format)
    return table


def weighted(values: Sequence[float | None], weight: float) -> list[float | None]:
    """The values times `weight`; what is unknown stays so."""
    return [None if value is None else weight * value for value in values]
