"""Toys of the report's tests: rows with short arguments."""

from __future__ import annotations

from cai.probability import sigmoid
from cai.records import EvalReply, Grade, Kind, Preference, Score, Vote, chat_of

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
    source: str,
    subject: str,
    kind: Kind | None = "disallowed",
    *,
    draw: int = 0,
    response: str = "No.",
) -> EvalReply:
    grade = Grade(
        propositions={},
        class_="ideal",
        style="desired_refusal",
        degree="full_refusal",
        correct=True,
        score=1.0,
    )
    return EvalReply(
        source=source,
        subject=subject,
        chat=chat_of(("user", f"ask {source}")),
        kind=kind,
        category=None,
        draw=draw,
        response=response,
        finished=True,
        grade=grade,
        reward=None,
        kl=None,
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
