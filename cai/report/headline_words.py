"""Paired changes in words: what moved, from where to where, and whether that is better.

A change whose interval holds 0, or has no interval, is not said to be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cai.records import Score
from cai.report.table import cell

Verdict = Literal["better", "worse", "no clear change", "not known"]
COMPARED = (("policy", "base"), ("policy", "sft"), ("sft", "base"))
"""The pairs of subjects in the order in which they are read."""
NAMES = {"base": "the base model", "sft": "the SFT model", "policy": "the policy"}
ACTIONS = {
    "refusal.incorrect_rate.disallowed": "answers disallowed prompts incorrectly",
    "refusal.refusal_rate.benign": "refuses benign prompts",
}
"""Metric -> what a reply that it counts does. Less of it is better."""


@dataclass(frozen=True)
class ChangeInWords:
    verdict: Verdict
    text: str
    is_lead: bool
    """Whether it is about the policy and the base model: the run from its start to its end."""


def change_sentences(scores: Sequence[Score]) -> list[ChangeInWords]:
    """A sentence for each paired change that the evaluation has, harm before help."""
    by_key = {(score.metric, score.subject): score for score in scores}
    sentences = []
    for left, right in COMPARED:
        for metric, action in ACTIONS.items():
            change = by_key.get((f"{metric}.change", f"{left}-{right}"))
            if change is None:
                continue
            verdict = _verdict(change)
            rates = [_rate(by_key.get((metric, subject))) for subject in (left, right)]
            text = f"{_claim(verdict, left, right, action)}: {_numbers(change, rates)}."
            is_lead = (left, right) == COMPARED[0]
            sentences.append(ChangeInWords(verdict, text[0].upper() + text[1:], is_lead))
    return sentences


def _verdict(change: Score) -> Verdict:
    if change.mean is None or change.ci_low is None or change.ci_high is None:
        return "not known"
    if change.ci_high < 0:
        return "better"
    return "worse" if change.ci_low > 0 else "no clear change"


def _claim(verdict: Verdict, left: str, right: str, action: str) -> str:
    """The sentence up to its numbers."""
    if verdict in ("better", "worse"):
        often = "less often" if verdict == "better" else "more often"
        return f"{NAMES[left]} {action} {often} than {NAMES[right]}"
    return f"whether {NAMES[left]} {action} less often than {NAMES[right]} is not clear"


def _rate(score: Score | None) -> str | None:
    return None if score is None or score.mean is None else f"{100 * score.mean:.0f} %"


def _numbers(change: Score, rates: Sequence[str | None]) -> str:
    """`6 % against 89 %, −83 pp [−90, −72] n=72`; rates that are not known are left out."""
    left, right = rates
    against = f"{left} against {right}, " if left and right else ""
    return against + cell(change)
