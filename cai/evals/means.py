"""Means of what rows say, with prompts or other clusters as the sampled units. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

from cai.records import Score, ScoredReply
from cai.statistics.estimates import estimate

RowT = TypeVar("RowT", bound=Any)
KeyT = TypeVar("KeyT", bound=Hashable)


def grouped(rows: Iterable[RowT], key: Callable[[RowT], KeyT]) -> dict[KeyT, list[RowT]]:
    """Key -> the rows that have it, both in order of appearance."""
    groups: dict[KeyT, list[RowT]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def by_subject(rows: Iterable[RowT]) -> dict[str, list[RowT]]:
    """Subject -> its rows."""
    return grouped(rows, lambda row: str(row.subject))


def prompt_of(row: Any) -> str:
    """The prompt that a row is about."""
    return str(row.source)


def mean_of(
    metric: str,
    value: Callable[[RowT], float | None],
    rows: Sequence[RowT],
    *,
    cluster: Callable[[RowT], str] = prompt_of,
    proportion: bool = True,
) -> Score:
    """The mean of `value` over one subject's rows, with an interval over clusters.

    Args:
        value: None where the row does not say.
    """
    clusters = [cluster(row) for row in rows]
    values = [value(row) for row in rows]
    return estimate(metric, rows[0].subject, values, clusters, proportion=proportion)


def mean_over_prompts(
    metric: str, rows: Sequence[ScoredReply], key: str, *, proportion: bool = True
) -> list[Score]:
    """The mean of one value, for each subject; none without rows.

    Args:
        key: of the value in `ScoredReply.values`; rows without it count as unscored.
    """
    return [
        mean_of(metric, lambda row: row.values.get(key), chosen, proportion=proportion)
        for chosen in by_subject(rows).values()
    ]


def highest_of_each_prompt(
    metric: str,
    rows: Sequence[ScoredReply],
    key: str,
    by: Callable[[ScoredReply], Hashable],
    *,
    proportion: bool = True,
) -> list[Score]:
    """The mean over prompts of the highest mean among a prompt's parts, for each subject.

    Args:
        key: of the value in `ScoredReply.values`. A part without a known value does not count; a
            prompt without such a part is unscored.
        by: what divides a prompt's rows into parts, such as the draw or the condition.
    """
    scores = []
    for subject, chosen in by_subject(rows).items():
        highest = [
            max(_known_means(grouped(of_prompt, by).values(), key), default=None)
            for of_prompt in grouped(chosen, prompt_of).values()
        ]
        scores.append(estimate(metric, subject, highest, proportion=proportion))
    return scores


def _known_means(parts: Iterable[Sequence[ScoredReply]], key: str) -> list[float]:
    """The mean of each part's known values; none of a part without one."""
    known = [[v for row in part if (v := row.values.get(key)) is not None] for part in parts]
    return [sum(values) / len(values) for values in known if values]
