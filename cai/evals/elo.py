"""Elo ratings and win rates of subjects from comparisons of their replies. Pure: rows in, rows out.

Prompts are the sampled units: a bootstrap draws prompts with all their comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cai.evals.judged_pairs import JudgedPair
from cai.evals.means import grouped
from cai.records import Score
from cai.statistics.estimates import Array, cluster_numbers, estimate, score_row
from cai.statistics.prediction_powered import corrected_mean
from cai.statistics.rating_intervals import length_controlled_rate, rated


def elo_scores(rows: Sequence[JudgedPair], subjects: Sequence[str], *, seed: int) -> list[Score]:
    """Ratings and win rates of all comparisons, then of each category's if there are several.

    Args:
        rows: verdicts on pairs of subjects.
        subjects: the first is the reference: its rating is 0, and win rates are against it.
    """
    scores = _scores(rows, subjects, seed, "")
    by_category = grouped(rows, lambda row: row.category or "")
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
    values, intervals = rated(_wins(known, index), seed, subjects)
    scores = []
    for subject, number in index.items():
        total = [row for row in rows if subject in row.subjects]
        n = sum(row.p_first is not None for row in total)
        mean = None if np.isnan(values[number]) else float(values[number])
        name = f"elo.rating{suffix}", subject
        scores.append(score_row(name, mean, intervals[number], n=n, unscored=len(total) - n))
    return scores


def _wins(known: Sequence[JudgedPair], index: Mapping[str, int]) -> Array:
    """Sums of P(i beats j) in each prompt: shape (prompts, subjects, subjects)."""
    prompts = cluster_numbers([row.source for row in known])
    wins = np.zeros((int(prompts.max(initial=-1)) + 1, len(index), len(index)))
    for prompt, row in zip(prompts, known, strict=True):
        first, second = (index[subject] for subject in row.subjects)
        share = row.p_first or 0.0
        wins[prompt, first, second] += share
        wins[prompt, second, first] += 1 - share
    return wins


# ---- win rates ----


def _length_controlled(
    against: Sequence[JudgedPair], subject: str, seed: int, suffix: str
) -> Score:
    """The win rate that replies of equal length would have."""
    known = [row for row in against if row.p_first is not None and row.words is not None]
    name = f"elo.length_controlled_win_rate{suffix}", subject
    mean, interval = length_controlled_rate(
        [_share(row, subject) or 0.0 for row in known],
        [_longer_by(row, subject) for row in known],
        [row.source for row in known],
        seed,
        name,
    )
    return score_row(name, mean, interval, n=len(known), unscored=len(against) - len(known))


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
