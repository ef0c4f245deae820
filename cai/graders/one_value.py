"""Graders that give a reply one value from 0 to 1: a pattern, a text, a scorer's probability, a
question to a judge, one of the rubric's values.
"""

from __future__ import annotations

import re

from cai.async_map import in_batches
from cai.graders.base import GradedItem, Grader, Verdict
from cai.graders.text_scorers import ScoreTexts
from cai.lm.base import LM, Sample
from cai.probability import sigmoid
from cai.rubric.llm_grader import log_odds
from cai.rubric.patterns import compile_pattern

VALUE = "value"


def pattern_grader(regex: str, key: str) -> Grader:
    """1 if the pattern matches in the reply, else 0."""
    pattern = compile_pattern(regex, key)

    async def grade(item: GradedItem, sample: Sample) -> Verdict:
        text = sample.text if pattern.searched.flags & re.IGNORECASE else sample.text.lower()
        return Verdict({VALUE: float(pattern.searched.search(text) is not None)})

    return grade


async def grade_contains(item: GradedItem, sample: Sample) -> Verdict:
    """1 if the reply has the item's text, else 0."""
    expected = str(item.facts["contains"])
    return Verdict({VALUE: float(expected.casefold() in sample.text.casefold())})


def scorer_grader(score: ScoreTexts) -> Grader:
    """The scorer's probability of the reply."""
    probability = in_batches(score)

    async def grade(item: GradedItem, sample: Sample) -> Verdict:
        return Verdict({VALUE: await probability(sample.text)})

    return grade


def judge_grader(judge: LM, question: str) -> Grader:
    """P(yes) of a question about the reply."""

    async def grade(item: GradedItem, sample: Sample) -> Verdict:
        odds = await log_odds(judge, (), item.chat, sample.text, question)
        if odds is None:
            return Verdict({}, "the judge said neither Yes nor No")
        return Verdict({VALUE: sigmoid(odds)})

    return grade


def measure_grader(rubric: Grader, measure: str) -> Grader:
    """One of the rubric's values."""

    async def grade(item: GradedItem, sample: Sample) -> Verdict:
        verdict = await rubric(item, sample)
        if verdict.unscored is not None:
            return verdict
        return Verdict({VALUE: verdict.values[measure]})

    return grade
