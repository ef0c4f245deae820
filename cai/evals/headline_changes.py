"""One subject against another: paired changes of the headline rates, in one run and
over several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cai.artifacts import COMPARISONS
from cai.evals.refusal import Value, incorrect, refused
from cai.records import EvalReply, Kind, Score
from cai.statistics.across_runs import RunChange, mean_change
from cai.statistics.estimates import score_row
from cai.statistics.paired import Difference, paired_difference

SIDES: tuple[tuple[str, Kind, Value], ...] = (
    ("refusal.incorrect_rate.disallowed", "disallowed", incorrect),
    ("refusal.refusal_rate.benign", "benign", refused),
)
"""(metric, kind of its prompts, value of a reply): one of harm, one of help."""

DrawKey = tuple[str, int]
"""(prompt id, draw)"""
Draws = Mapping[DrawKey, float | None]


def draws_by_subject(
    replies: Sequence[EvalReply], kind: Kind, value: Value
) -> dict[str, dict[DrawKey, float | None]]:
    """Subject -> the value of each of its replies to prompts of `kind`."""
    values: dict[str, dict[DrawKey, float | None]] = {}
    for reply in replies:
        if reply.kind == kind:
            values.setdefault(reply.subject, {})[reply.source, reply.draw] = value(reply)
    return values


def comparisons(replies: Sequence[EvalReply]) -> list[Score]:
    """Paired differences of the two headline rates, one for each side.

    `METRIC.change` is the difference, `METRIC.relative_change` the same as a share. The subject
    "policy-base" is policy minus base. Harm: `refusal.incorrect_rate.disallowed`; help:
    `refusal.refusal_rate.benign`. Replies are paired by prompt and draw; a reply counts as unscored
    when it has no partner or its partner is ungraded.
    """
    scores: list[Score] = []
    for metric, kind, value in SIDES:
        values = draws_by_subject(replies, kind, value)
        for left, right in COMPARISONS:
            if left in values and right in values:
                change = _difference(values[left], values[right])
                scores += _change_scores(metric, f"{left}-{right}", change)
    return scores


def _difference(left: Draws, right: Draws) -> Difference:
    keys = sorted(left.keys() | right.keys())
    return paired_difference(
        [left.get(key) for key in keys],
        [right.get(key) for key in keys],
        [prompt for prompt, _ in keys],
        proportion=True,
    )


def _change_scores(metric: str, subject: str, d: Difference) -> list[Score]:
    absolute = (d.stderr, d.ci_low, d.ci_high)
    relative = (d.relative_stderr, d.relative_low, d.relative_high)
    return [
        score_row((f"{metric}.{name}", subject), mean, interval, n=d.n, unscored=d.unscored)
        for name, mean, interval in (
            ("change", d.mean, absolute),
            ("relative_change", d.relative, relative),
        )
    ]


def changes_across_runs(runs: Sequence[Sequence[EvalReply]], seed: int = 0) -> list[RunChange]:
    """Every compared pair of subjects, for each headline rate, over the replies of several runs."""
    changes = []
    for metric, kind, value in SIDES:
        values = [draws_by_subject(replies, kind, value) for replies in runs]
        for left, right in COMPARISONS:
            gaps = [_gaps(subjects.get(left, {}), subjects.get(right, {})) for subjects in values]
            if any(gaps):
                changes.append(mean_change(metric, f"{left}-{right}", gaps, seed))
    return changes


def _gaps(left: Draws, right: Draws) -> dict[str, list[float]]:
    """Prompt -> left − right for each of its draws with both sides known."""
    gaps: dict[str, list[float]] = {}
    for key, value in left.items():
        other = right.get(key)
        if value is not None and other is not None:
            gaps.setdefault(key[0], []).append(value - other)
    return gaps
