"""Diagnostics of preference labels: position bias, abstentions, disagreement between principles.

Pure functions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cai.records import Preference, Score, Vote
from cai.statistics.agreement import Bin, ece, entropy, krippendorff, reliability
from cai.statistics.estimates import estimate

BINS = 10


@dataclass(frozen=True)
class LabelDiagnostics:
    rows: list[tuple[str, Score]]
    """(description, number)."""
    unscored: list[tuple[str, int]]
    """(reason, pairs without a label for that reason); the most frequent first."""
    bins: list[int]
    """Labels in ten equal bins of p_first; 1.0 falls into the last."""
    alpha: float | None = None
    """Krippendorff's, with the principles of a pair as coders; None when no pair has two votes."""


@dataclass
class _Column:
    """Values of one metric, each with the pair that it is from."""

    values: list[float | None] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)

    def add(self, pair: str, value: float | None) -> None:
        self.pairs.append(pair)
        self.values.append(value)

    def estimate(self, metric: str, subject: str, *, proportion: bool | None = None) -> Score:
        return estimate(metric, subject, self.values, self.pairs, proportion=proportion)


@dataclass
class _VoteColumns:
    """Values of votes."""

    flips: _Column = field(default_factory=_Column)
    position_bias: _Column = field(default_factory=_Column)
    abstentions: _Column = field(default_factory=_Column)
    p_first: _Column = field(default_factory=_Column)

    def add(self, pair: str, vote: Vote) -> None:
        flip = flipped(vote)
        self.flips.add(pair, None if flip is None else float(flip))
        self.position_bias.add(pair, position_bias(vote))
        self.abstentions.add(pair, float(vote.p_first is None))
        self.p_first.add(pair, vote.p_first)


@dataclass
class _LabelColumns:
    """Values of labels."""

    unscored: _Column = field(default_factory=_Column)
    p_first: _Column = field(default_factory=_Column)
    distance_from_half: _Column = field(default_factory=_Column)
    entropy: _Column = field(default_factory=_Column)
    spread: _Column = field(default_factory=_Column)

    def add(self, preference: Preference) -> None:
        pair = preference.source
        p = preference.p_first
        self.unscored.add(pair, float(p is None))
        self.p_first.add(pair, p)
        self.distance_from_half.add(pair, None if p is None else abs(p - 0.5))
        self.entropy.add(pair, None if p is None else entropy(p))
        opinions = _opinions(preference)
        if len(opinions) > 1:
            self.spread.add(pair, max(opinions) - min(opinions))


def _opinions(preference: Preference) -> list[float]:
    return [vote.p_first for vote in preference.votes if vote.p_first is not None]


def flipped(vote: Vote) -> bool | None:
    """Whether swapping the replies changes the preferred one; None: an order is missing or tied."""
    margins = _margins(vote)
    if margins is None or 0.0 in margins:
        return None
    return (margins[0] > 0) == (margins[1] > 0)


def position_bias(vote: Vote) -> float | None:
    """Bias towards the reply shown as (A), or (B) if negative, nats; swapping cancels it.

    ½[(a−b) + (a′−b′)], where a, b are the options' log-probabilities and a′, b′ those after the
    swap.
    """
    margins = _margins(vote)
    return None if margins is None else sum(margins) / 2


def _margins(vote: Vote) -> tuple[float, float] | None:
    """log P(A) − log P(B) with the first reply as (A), and with the second reply as (A)."""
    if vote.logprobs is None or vote.logprobs_swapped is None:
        return None
    return vote.logprobs[0] - vote.logprobs[1], vote.logprobs_swapped[0] - vote.logprobs_swapped[1]


def diagnose(preferences: Iterable[Preference]) -> LabelDiagnostics:
    """Diagnostics of all labels, with pairs as clusters; `preferences` may be a stream."""
    votes = _VoteColumns()
    labels = _LabelColumns()
    reasons: Counter[str] = Counter()
    bins = [0] * BINS
    opinions = []
    for preference in preferences:
        labels.add(preference)
        for vote in preference.votes:
            votes.add(preference.source, vote)
        opinions.append(_opinions(preference))
        if preference.p_first is None:
            reasons[preference.unscored or "no reason given"] += 1
        else:
            bins[min(BINS - 1, int(preference.p_first * BINS))] += 1
    rows = _diagnostic_rows(votes, labels)
    known = [(name, score) for name, score in rows if score.n or score.unscored]
    return LabelDiagnostics(known, reasons.most_common(), bins, krippendorff(opinions))


def _diagnostic_rows(votes: _VoteColumns, labels: _LabelColumns) -> list[tuple[str, Score]]:
    rates = [
        ("pairs without a label", "label.unscored_rate", labels.unscored),
        ("votes without a verdict", "label.abstention_rate", votes.abstentions),
        ("votes that flip with the order of the replies", "label.flip_rate", votes.flips),
    ]
    means = [
        (
            "position bias, nats (above 0: towards A, below: towards B)",
            "label.position_bias",
            votes.position_bias,
        ),
        ("mean p_first", "label.p_first", labels.p_first),
        ("mean distance of p_first from ½", "label.confidence", labels.distance_from_half),
        ("entropy, bits", "label.entropy", labels.entropy),
        (
            "highest minus lowest p_first among a pair's principles",
            "label.spread",
            labels.spread,
        ),
    ]
    rows = [(name, column.estimate(metric, "labels")) for name, metric, column in rates]
    rows += [
        (name, column.estimate(metric, "labels", proportion=False))
        for name, metric, column in means
    ]
    return rows


def by_principle(preferences: Iterable[Preference]) -> dict[str, list[Score]]:
    """Principle -> [flip rate, position bias, abstention rate, mean p_first] of its votes.

    Principles are in alphabetical order.
    """
    columns: dict[str, _VoteColumns] = defaultdict(_VoteColumns)
    for preference in preferences:
        for vote in preference.votes:
            columns[vote.principle].add(preference.source, vote)
    return {
        principle: [
            votes.flips.estimate("label.flip_rate", principle),
            votes.position_bias.estimate("label.position_bias", principle, proportion=False),
            votes.abstentions.estimate("label.abstention_rate", principle),
            votes.p_first.estimate("label.p_first", principle, proportion=False),
        ]
        for principle, votes in sorted(columns.items())
    }


@dataclass(frozen=True)
class HumanAgreement:
    """Agreement of the labels with human labels."""

    agreement: Score
    """Share of pairs whose likelier reply people chose too; a label of exactly ½ counts as ½."""
    ece: float | None
    """Of the likelier reply's probability."""
    curve: list[Bin]


def compare_with_humans(
    preferences: Sequence[Preference], human: Mapping[str, float]
) -> HumanAgreement:
    """Agreement and calibration against human labels.

    Args:
        human: pair -> P(first is better) by people; pairs at exactly one half are ignored.
    """
    compared = [p for p in preferences if human.get(p.source, 0.5) != 0.5]
    agreements: list[float | None] = []
    confidences = []
    outcomes = []
    for preference in compared:
        p = preference.p_first
        first_is_better = human[preference.source] > 0.5
        agreements.append(_agreement(p, first_is_better))
        if p is not None:
            confidences.append(max(p, 1 - p))
            outcomes.append(float((p >= 0.5) == first_is_better))
    pairs = [preference.source for preference in compared]
    score = estimate("label.agreement", "labels", agreements, pairs)
    return HumanAgreement(score, ece(confidences, outcomes), reliability(confidences, outcomes))


def _agreement(p: float | None, first_is_better: bool) -> float | None:
    if p is None:
        return None
    return 0.5 if p == 0.5 else float((p > 0.5) == first_is_better)
