"""Elo ratings and win rates of subjects from comparisons of their replies. Pure: rows in, rows out.

Prompts are the sampled units: a bootstrap draws prompts with all their comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cai.evals.judged_pairs import JudgedPair
from cai.records import Score
from cai.statistics.bradley_terry import ELO_PER_NAT, length_controlled, strengths
from cai.statistics.estimates import (
    Array,
    Indices,
    Interval,
    bootstrap_interval,
    cluster_numbers,
    estimate,
    resample,
)
from cai.statistics.prediction_powered import corrected_mean

DRAWS = 1000
"""Bootstrap resamples."""
MIN_KNOWN_DRAWS = 0.975
"""Share of the resamples that must have a rating, so that the interval's ends are known."""


def elo_scores(rows: Sequence[JudgedPair], subjects: Sequence[str], *, seed: int) -> list[Score]:
    """Ratings and win rates of all comparisons, then of each category's if there are several.

    Args:
        rows: verdicts on pairs of subjects.
        subjects: the first is the reference: its rating is 0, and win rates are against it.
    """
    scores = _scores(rows, subjects, seed, "")
    by_category: dict[str, list[JudgedPair]] = {}
    for row in rows:
        by_category.setdefault(row.category or "", []).append(row)
    if len(by_category) > 1:
        for category in sorted(by_category.keys() - {""}):
            scores += _scores(by_category[category], subjects, seed, f".{category}")
    return scores


def _scores(
    rows: Sequence[JudgedPair], subjects: Sequence[str], seed: int, suffix: str
) -> list[Score]:
    scores = ratings(rows, subjects, seed, suffix)
    for subject in subjects[1:]:
        against = [row for row in rows if set(row.subjects) == {subject, subjects[0]}]
        if not against:
            continue
        shares = [_share(row, subject) for row in against]
        known = {share for share in shares if share is not None}
        rate = estimate(
            f"elo.win_rate{suffix}",
            subject,
            shares,
            [row.source for row in against],
            proportion=known <= {0.0, 0.5, 1.0},
        )
        scores += [rate, _length_controlled(against, subject, seed, suffix)]
    return scores


def _share(row: JudgedPair, subject: str) -> float | None:
    """P(the reply of `subject` is better)."""
    if row.p_first is None or row.subjects[0] == subject:
        return row.p_first
    return 1 - row.p_first


# ---- ratings ----


def ratings(
    rows: Sequence[JudgedPair], subjects: Sequence[str], seed: int, suffix: str = ""
) -> list[Score]:
    """`elo.rating` of each subject: 400/ln(10) times its Bradley–Terry strength.

    `n` counts the known comparisons of the subject. A rating is null where none leads to the
    reference, or where the subject only won or only lost: it has no bound then. The same holds for
    an interval where that is so in more than 2.5 % of the resamples.
    """
    index = {subject: number for number, subject in enumerate(subjects)}
    known = [row for row in rows if row.p_first is not None]
    values, intervals = _fit(known, index, seed)
    scores = []
    for subject, number in index.items():
        total = [row for row in rows if subject in row.subjects]
        n = sum(row.p_first is not None for row in total)
        stderr, low, high = intervals[number]
        scores.append(
            Score(
                metric=f"elo.rating{suffix}",
                subject=subject,
                mean=None if np.isnan(values[number]) else float(values[number]),
                stderr=stderr,
                ci_low=low,
                ci_high=high,
                n=n,
                unscored=len(total) - n,
            )
        )
    return scores


def _fit(
    known: Sequence[JudgedPair], index: Mapping[str, int], seed: int
) -> tuple[Array, list[Interval]]:
    """(rating of each subject, its interval)."""
    count = len(index)
    prompts = cluster_numbers([row.source for row in known])
    clusters = int(prompts.max(initial=-1)) + 1
    wins = np.zeros((clusters, count, count))
    for prompt, row in zip(prompts, known, strict=True):
        first, second = (index[subject] for subject in row.subjects)
        share = row.p_first or 0.0
        wins[prompt, first, second] += share
        wins[prompt, second, first] += 1 - share
    values = ELO_PER_NAT * strengths(wins.sum(axis=0))
    unknown: list[Interval] = [(None, None, None)] * count
    if clusters < 2:
        return values, unknown

    def statistic(drawn: Indices) -> Array:
        totals: Array = times_drawn(drawn) @ wins.reshape(clusters, -1)
        elo: Array = ELO_PER_NAT * strengths(totals.reshape(-1, count, count))
        return elo

    draws = resample(statistic, clusters, seed, DRAWS, "elo", *index)
    return values, [
        _interval(column, clusters) if not np.isnan(value) else unknown[0]
        for value, column in zip(values, draws.T, strict=True)
    ]


def _interval(draws: Array, clusters: int) -> Interval:
    known = draws[~np.isnan(draws)]
    if len(known) < MIN_KNOWN_DRAWS * len(draws):
        return None, None, None
    return bootstrap_interval(known, clusters)


def times_drawn(drawn: Indices) -> Array:
    """How often each cluster is in each resample: shape (resamples, clusters)."""
    resamples, clusters = drawn.shape
    flat = (drawn + clusters * np.arange(resamples)[:, None]).ravel()
    counts = np.bincount(flat, minlength=resamples * clusters)
    return counts.reshape(resamples, clusters).astype(float)


# ---- win rates ----


def _length_controlled(
    against: Sequence[JudgedPair], subject: str, seed: int, suffix: str
) -> Score:
    """The win rate that replies of equal length would have."""
    known = [row for row in against if row.p_first is not None and row.words is not None]
    metric = f"elo.length_controlled_win_rate{suffix}"
    missing = len(against) - len(known)
    mean = None
    interval: Interval = (None, None, None)
    if known:
        shares = np.array([_share(row, subject) for row in known], dtype=float)
        lengths = np.array([_longer_by(row, subject) for row in known], dtype=float)
        prompts = cluster_numbers([row.source for row in known])
        mean = float(length_controlled(shares, lengths, np.ones(len(known))))
        clusters = int(prompts.max()) + 1

        def statistic(drawn: Indices) -> Array:
            return length_controlled(shares, lengths, times_drawn(drawn)[:, prompts])

        if clusters > 1:
            draws = resample(statistic, clusters, seed, DRAWS, metric, subject)
            interval = bootstrap_interval(draws, clusters)
    stderr, low, high = interval
    return Score(
        metric=metric,
        subject=subject,
        mean=mean,
        stderr=stderr,
        ci_low=low,
        ci_high=high,
        n=len(known),
        unscored=missing,
    )


def _longer_by(row: JudgedPair, subject: str) -> int:
    first, second = row.words or (0, 0)
    return first - second if row.subjects[0] == subject else second - first


def corrected_scores(
    judged: Sequence[JudgedPair], people: Sequence[JudgedPair], subjects: Sequence[str]
) -> list[Score]:
    """`elo.corrected_win_rate`, from the judge's verdicts and people's on some of the same prompts;
    and `elo.judge_agreement`, how often both prefer the same reply.
    """
    verdicts: dict[tuple[str, str], list[float]] = {}
    for row in people:
        for subject in row.subjects:
            if set(row.subjects) == {subject, subjects[0]}:
                share = _share(row, subject)
                if share is not None:
                    verdicts.setdefault((row.source, subject), []).append(share)
    scores = []
    for subject in subjects[1:]:
        against = [row for row in judged if set(row.subjects) == {subject, subjects[0]}]
        sources = [row.source for row in against]
        of_judge = [_share(row, subject) for row in against]
        of_people = [
            float(np.mean(verdicts[source, subject])) if (source, subject) in verdicts else None
            for source in sources
        ]
        both = [
            (source, None if f is None or 0.5 in (f, y) else float((f > 0.5) == (y > 0.5)))
            for source, f, y in zip(sources, of_judge, of_people, strict=True)
            if y is not None
        ]
        agreement = [agrees for _, agrees in both]
        seen = [source for source, _ in both]
        scores += [
            corrected_mean("elo.corrected_win_rate", subject, of_judge, of_people, sources),
            estimate("elo.judge_agreement", subject, agreement, seen, proportion=True),
        ]
    return scores
