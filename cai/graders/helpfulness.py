"""Whether a reply helps: what a rubric says, its words, and how much it is about its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cai.async_map import in_batches
from cai.data.words import spaced_words
from cai.graders.base import GradedItem, Grader, Verdict
from cai.lm.base import Sample
from cai.records import Prompt

if TYPE_CHECKING:
    from cai.reward.relevance import Relevance


def helpful_grader(rubric: Grader, relevance: Relevance | None) -> Grader:
    """What the rubric says, the words, and the relevance where there is a model for it."""

    def score(calls: Sequence[tuple[Prompt, str]]) -> list[float | None]:
        if relevance is None:
            return [None] * len(calls)
        return relevance([prompt for prompt, _ in calls], [reply for _, reply in calls])

    relevance_of = in_batches(score)

    async def grade(item: GradedItem, sample: Sample) -> Verdict:
        verdict = await rubric(item, sample)
        values = dict(verdict.values) | {"words": float(len(spaced_words(sample.text)))}
        if relevance is not None:
            nats = await relevance_of((item.prompt, sample.text))
            values |= {"relevance": nats, "relevant": None if nats is None else float(nats > 0)}
        return Verdict(values, verdict.unscored)

    return grade
