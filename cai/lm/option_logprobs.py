"""The log-probabilities of a judge's options in an endpoint's answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cai.lm.chat_completions import AROUND_OPTIONS, Answer, total_probability

MIN_REST = 1e-6
"""Least probability of what is not listed: sums of rounded numbers know no less."""


def option_logprobs(answer: Answer, choices: Sequence[str]) -> list[float] | None:
    """log P of each option among the first token's alternatives, in nats.

    Spellings with spaces, quotes or brackets are summed. Options that are not listed share what
    the listed alternatives leave: together they have at most log(1 - sum P). A label may come out
    less confident than the model was, never more.

    Returns:
        None when no option is listed. Also when one is missing, and the best of the others has no
        more than what is left, or less than a token that is no option: that says nothing about
        which is better.

    Raises:
        ValueError: the answer has no usable log-probabilities.
    """
    if answer.alternatives is None:
        raise ValueError("no usable log-probabilities")
    listed = [(entry.token.strip(AROUND_OPTIONS), entry.logprob) for entry in answer.alternatives]
    scores = [_logsumexp([logp for token, logp in listed if token == choice]) for choice in choices]
    best = max(scores)
    missing = sum(not math.isfinite(score) for score in scores)
    if not math.isfinite(best):
        return None
    if not missing:
        return scores
    rest = max(1.0 - total_probability(answer.alternatives), MIN_REST)
    if best <= math.log(rest) or best < max(logp for _, logp in listed):
        return None
    bound = math.log(rest / missing)
    return [score if math.isfinite(score) else bound for score in scores]


def begins_with_thought(answer: Answer) -> bool:
    """Whether the most likely first token opens a <think> block."""
    likely = max(answer.alternatives or (), key=lambda entry: entry.logprob, default=None)
    return likely is not None and likely.token.strip().lower() in ("<think>", "<thinking>")


def _logsumexp(logps: Sequence[float]) -> float:
    top = max(logps, default=-math.inf)
    if not math.isfinite(top):
        return -math.inf
    return top + math.log(sum(math.exp(logp - top) for logp in logps))
