"""Propositions decided by a language model, calibrated (arXiv:2411.01111, section 4.1).

P(yes) comes from the log-probabilities of the answers Yes and No. A cascade sends only those
propositions to the model that have no patterns or test, and those whose test is unsure.
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
from cai.rubric.grade import (
    CompiledRubric,
    evaluate_propositions,
    grade_propositions,
    unscored_grade,
)
from cai.rubric.propositions import COMPUTED_TESTS, Ungraded

UNSURE = (0.2, 0.8)
"""A test's probability between these is not used: the model decides."""


async def log_odds(
    lm: LM, shots: tuple[GradeExample, ...], chat: Chat, reply: str, question: str
) -> float | None:
    """log P(Yes) - log P(No) of one question about `reply` to `chat`, in nats.

    None when the model gives no log-probability for one of the two.
    """
    request = templates.proposition_chat(shots, chat, reply, question)
    logprobs = await lm.choice_logprobs(request, templates.ANSWERS)
    if logprobs is None or not all(map(math.isfinite, logprobs)):
        return None
    return logprobs[0] - logprobs[1]


def probability(odds: float, temperature: float) -> float:
    """sigma(odds / temperature), without overflow."""
    return sigmoid(odds / temperature)


async def grade_with_model(
    lm: LM,
    compiled: CompiledRubric,
    shots: tuple[GradeExample, ...],
    *,
    chat: Chat,
    response: str,
    kind: Kind | None,
    everything: bool = False,
) -> Grade:
    """`grade`, with the propositions that no test decides, or decides surely, decided by `lm`.

    Args:
        chat: ends with the user turn that `response` answers.
        everything: send all propositions but the computed ones to the model.

    Returns:
        The grade. A question without an answer leaves the reply unscored, with the reason.
    """
    reply = compiled.normalize(Ungraded(chat[-1].content, response))
    tested = evaluate_propositions(compiled, reply)
    ids = [id for id in compiled.questions if _is_for_model(id, tested, everything)]
    try:
        odds = await gather(
            [log_odds(lm, shots, chat, response, compiled.questions[id]) for id in ids]
        )
    except UnansweredError as error:
        return unscored_grade(tested, error.reason)
    answers: dict[str, float] = {}
    unanswered = []
    for id, z in zip(ids, odds, strict=True):
        if z is None:
            unanswered.append(id)
        else:
            answers[id] = probability(z, compiled.temperatures.get(id, 1.0))
    if unanswered:
        reason = f"the model said neither Yes nor No about {', '.join(unanswered)}"
        return unscored_grade(tested, reason)
    decided = tested | answers
    return grade_propositions(compiled, {id: decided[id] for id in compiled.questions}, kind=kind)


def _is_for_model(id: str, tested: Mapping[str, float], everything: bool) -> bool:
    if id not in tested or (everything and id not in COMPUTED_TESTS):
        return True
    return UNSURE[0] < tested[id] < UNSURE[1]


def fit_temperature(odds: Sequence[float], holds: Sequence[bool]) -> float:
    """The divisor of log-odds with the least log loss on labels, in [0.05, 20].

    Temperature scaling: Guo et al., arXiv:1706.04599.

    Raises:
        JobError: all labels are equal, which determines no temperature.
    """
    if len(set(holds)) < 2:
        raise JobError(
            "calibrate: needs replies of which the proposition holds, "
            "and others of which it does not"
        )
    z = np.asarray(odds, dtype=np.float64)
    sign = np.where(np.asarray(holds), 1.0, -1.0)

    def loss(log_t: float) -> float:
        return float(np.logaddexp(0.0, -sign * z / math.exp(log_t)).mean())

    result = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded")
    return float(math.exp(result.x))


def log_loss(odds: Sequence[float], holds: Sequence[bool], temperature: float) -> float:
    """Mean log loss of sigma(odds / temperature), in nats."""
    sign = np.where(np.asarray(holds), 1.0, -1.0)
    z = np.asarray(odds, dtype=np.float64)
    return float(np.logaddexp(0.0, -sign * z / temperature).mean())
