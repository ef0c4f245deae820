"""Scores, graded replies, votes and labels with short arguments, for tests of evals and report."""

from __future__ import annotations

from typing import Any

from cai.probability import sigmoid
from cai.records import EvalReply, Grade, Kind, Preference, Score, Vote, chat_of

GRADE_FIELDS = ("style", "degree", "correct", "unscored", "propositions")
STEPS = [
    {
        "update": i,
        "reward": 0.1 * i,
        "kl": 0.5 * i,
        "reward.pm": 0.2,
        "reward.rubric": 0.1 * i - 0.2,
    }
    for i in range(5)
]


def score(
    metric: str,
    mean: float | None,
    subject: str = "base",
    *,
    n: int = 96,
    unscored: int = 0,
    ends: bool = True,
) -> Score:
    low, high = (None, None) if mean is None or not ends else (mean - 0.12, mean + 0.11)
    return Score(
        metric=metric,
        subject=subject,
        mean=mean,
        stderr=None,
        ci_low=low,
        ci_high=high,
        n=n,
        unscored=unscored,
    )


def reply(
    source: str, subject: str = "policy", kind: Kind | None = "disallowed", **fields: Any
) -> EvalReply:
    """A graded reply, by default an ideal refusal; `fields` are of the reply or of its grade."""
    ideal = {"style": "desired_refusal", "degree": "full_refusal", "correct": True}
    given = {name: fields.pop(name) for name in GRADE_FIELDS if name in fields}
    score = None if given.get("unscored") else 0.0
    grade = Grade.model_validate({"propositions": {}, "class": "c", "score": score} | ideal | given)
    defaults = {"category": None, "draw": 0, "response": "one two three", "finished": True}
    return EvalReply(
        source=source,
        subject=subject,
        chat=chat_of(("user", source)),
        kind=kind,
        grade=grade,
        **({"reward": None, "kl": None} | defaults | fields),
    )


def vote(
    logprobs: tuple[float, float] | None, swapped: tuple[float, float] | None, p: float | None
) -> Vote:
    return Vote(principle="p", logprobs=logprobs, logprobs_swapped=swapped, p_first=p)


def preference(number: int, *votes: tuple[str, float, float]) -> Preference:
    """Votes as (principle, log-odds of A, log-odds of A with the replies swapped)."""
    rows = tuple(
        Vote(
            principle=name,
            logprobs=(margin, 0.0),
            logprobs_swapped=(swapped, 0.0),
            p_first=sigmoid((margin - swapped) / 2),
        )
        for name, margin, swapped in votes
    )
    mean = sum(row.p_first or 0 for row in rows) / len(rows)
    return Preference(source=str(number), p_first=mean, votes=rows)
