"""Propositions decided by a model: P(yes) from the log-probabilities of its answer, calibrated (arXiv:2411.01111, section 4.1).

A cascade asks only where it has to: propositions without patterns, and those whose cheap test is unsure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from cai import templates
from cai.async_map import gather
from cai.constitution.schema import GradeExample
from cai.errors import JobError, UnansweredError
from cai.lm.base import LM
from cai.probability import sigmoid
from cai.records import Chat, Grade, Kind
from cai.rubric.compile import CompiledRubric
from cai.rubric.grade import evaluate_propositions, grade_propositions, unscored_grade
from cai.rubric.propositions import COMPUTED, read_reply

UNSURE = (0.2, 0.8)
"""A cheap test's probability between these is not taken: the model is asked."""


async def log_odds(lm: LM, shots: tuple[GradeExample, ...], chat: Chat, reply: str, question: str) -> float | None:
    """log P(Yes) - log P(No) of one question about `reply` to `chat`. None: the model named none of the two, or only one."""
    asked = templates.proposition_chat(shots, chat, reply, question)
    found = await lm.choice_logprobs(asked, templates.ANSWERS)
    return found[0] - found[1] if found is not None and all(map(math.isfinite, found)) else None


def probability(odds: float, temperature: float) -> float:
    """sigma(odds / temperature), without overflow."""
    scaled = odds / temperature
    return sigmoid(scaled)


async def grade_with(
    lm: LM,
    compiled: CompiledRubric,
    shots: tuple[GradeExample, ...],
    *,
    chat: Chat,
    response: str,
    kind: Kind | None,
    source: str | None = None,
    everything: bool = False,
) -> Grade:
    """As `grade`, with the propositions that no test decides, or none surely, decided by `lm`.

    Args:
        chat: ends with the user turn that `response` answers.
        everything: ask about all propositions but the computed ones, whatever the tests say.

    A question without an answer leaves the whole reply ungraded, with the reason.
    """
    cheap = evaluate_propositions(compiled, read_reply(chat[-1].content, response, compiled.prefilter))
    wanted = [
        id
        for id in compiled.questions
        if id not in cheap or (everything and id not in COMPUTED) or UNSURE[0] < cheap[id] < UNSURE[1]
    ]
    try:
        found = await gather([log_odds(lm, shots, chat, response, compiled.questions[id]) for id in wanted])
    except UnansweredError as error:
        return unscored_grade(cheap, f"no answer: {error}", source)
    silent = [id for id, odds in zip(wanted, found, strict=True) if odds is None]
    if silent:
        return unscored_grade(cheap, f"the model said neither Yes nor No about {', '.join(silent)}", source)
    asked = {
        id: probability(odds, compiled.temperatures.get(id, 1.0))
        for id, odds in zip(wanted, found, strict=True)
        if odds is not None
    }
    return grade_propositions(compiled, {id: (cheap | asked)[id] for id in compiled.questions}, kind=kind, source=source)


def temperature(odds: Sequence[float], holds: Sequence[bool]) -> float:
    """By what to divide log-odds so that they predict labels best (Guo et al., arXiv:1706.04599): least log loss, in [0.05, 20].

    Raises:
        JobError: labels of one sort only tell nothing about confidence.
    """
    if len(set(holds)) < 2:
        raise JobError("calibrate: needs replies of which the proposition holds, and others of which it does not")
    z, sign = np.asarray(odds, dtype=np.float64), np.where(np.asarray(holds), 1.0, -1.0)

    def loss(log_t: float) -> float:
        return float(np.logaddexp(0.0, -sign * z / math.exp(log_t)).mean())

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded")
    return float(math.exp(found.x))


def log_loss(odds: Sequence[float], holds: Sequence[bool], by: float) -> float:
    """Mean log loss of sigma(odds / by), nats."""
    sign = np.where(np.asarray(holds), 1.0, -1.0)
    return float(np.logaddexp(0.0, -sign * np.asarray(odds, dtype=np.float64) / by).mean())


def questions(compiled: CompiledRubric) -> Mapping[str, str]:
    """The propositions that a model may be asked about."""
    return {id: question for id, question in compiled.questions.items() if id not in COMPUTED}
