"""What the labeller did: how often position decided, how often nobody knew, how far principles disagree. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cai.evals.agreement import Bin, ece, entropy, krippendorff, reliability
from cai.evals.stats import estimate
from cai.records import Preference, Score, Vote


@dataclass(frozen=True)
class LabelDiagnostics:
    rows: list[tuple[str, Score]]
    """What it is, and its number."""
    unscored: list[tuple[str, int]]
    """Reason, and pairs without a label for that reason; the most frequent first."""
    bins: list[int]
    """Labels in ten equal bins of p_first; 1.0 falls into the last."""
    alpha: float | None = None
    """Krippendorff's, of the principles of a pair as coders; None where no pair was judged by two."""


@dataclass
class _Tally:
    flips: list[float | None] = field(default_factory=list)
    leans: list[float | None] = field(default_factory=list)
    silent: list[float | None] = field(default_factory=list)
    vote_pairs: list[str] = field(default_factory=list)
    labels: list[float | None] = field(default_factory=list)
    decided: list[float | None] = field(default_factory=list)
    entropies: list[float | None] = field(default_factory=list)
    spreads: list[float | None] = field(default_factory=list)
    spread_pairs: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    bins: list[int] = field(default_factory=lambda: [0] * 10)


def flipped(vote: Vote) -> bool | None:
    """Whether the vote names another reply when the two change places. None: an order is missing or is a tie."""
    margins = _margins(vote)
    if margins is None or 0.0 in margins:
        return None
    return (margins[0] > 0) == (margins[1] > 0)


def position_bias(vote: Vote) -> float | None:
    """Liking for slot A in nats of log-odds, the part that swapping cancels: ½[(a−b) + (a′−b′)]."""
    margins = _margins(vote)
    return None if margins is None else sum(margins) / 2


def _margins(vote: Vote) -> tuple[float, float] | None:
    """log P(A) − log P(B) with the first reply as (A), and with the second reply as (A)."""
    if vote.logprobs is None or vote.logprobs_swapped is None:
        return None
    return vote.logprobs[0] - vote.logprobs[1], vote.logprobs_swapped[0] - vote.logprobs_swapped[1]


def diagnose(preferences: Iterable[Preference]) -> LabelDiagnostics:
    """Rates over votes have the pair as their cluster; the file may be a stream."""
    tally, opinions_of = _Tally(), []
    for preference in preferences:
        tally.pairs.append(preference.source)
        tally.labels.append(preference.p_first)
        tally.decided.append(None if preference.p_first is None else abs(preference.p_first - 0.5))
        tally.entropies.append(None if preference.p_first is None else entropy(preference.p_first))
        if preference.p_first is None:
            tally.reasons[preference.unscored or "no reason given"] += 1
        else:
            tally.bins[min(9, int(preference.p_first * 10))] += 1
        opinions = [vote.p_first for vote in preference.votes if vote.p_first is not None]
        opinions_of.append(opinions)
        if len(opinions) > 1:
            tally.spreads.append(max(opinions) - min(opinions))
            tally.spread_pairs.append(preference.source)
        for vote in preference.votes:
            turned = flipped(vote)
            tally.vote_pairs.append(preference.source)
            tally.flips.append(None if turned is None else float(turned))
            tally.leans.append(position_bias(vote))
            tally.silent.append(float(vote.p_first is None))
    missing = [float(label is None) for label in tally.labels]
    per_vote, per_pair = tally.vote_pairs, tally.pairs
    rows = [
        ("pairs without a label", estimate("label.unscored_rate", "labels", missing, per_pair)),
        (
            "votes without a verdict",
            estimate("label.abstention_rate", "labels", tally.silent, per_vote),
        ),
        (
            "votes that flip with the order of the replies",
            estimate("label.flip_rate", "labels", tally.flips, per_vote),
        ),
        (
            "liking for slot A, nats",
            estimate("label.slot_lean", "labels", tally.leans, per_vote, proportion=False),
        ),
        (
            "mean p_first",
            estimate("label.p_first", "labels", tally.labels, per_pair, proportion=False),
        ),
        (
            "mean distance of p_first from ½",
            estimate("label.decidedness", "labels", tally.decided, per_pair, proportion=False),
        ),
        (
            "entropy, bits",
            estimate("label.entropy", "labels", tally.entropies, per_pair, proportion=False),
        ),
        (
            "highest minus lowest p_first among a pair's principles",
            estimate("label.spread", "labels", tally.spreads, tally.spread_pairs, proportion=False),
        ),
    ]
    known = [row for row in rows if row[1].n or row[1].unscored]
    return LabelDiagnostics(
        known, tally.reasons.most_common(), tally.bins, krippendorff(opinions_of)
    )


def by_principle(preferences: Iterable[Preference]) -> dict[str, list[Score]]:
    """Principle -> its votes' flip rate, liking for slot A, silence, and mean p_first; in alphabetical order."""
    votes: dict[str, list[tuple[str, Vote]]] = defaultdict(list)
    for preference in preferences:
        for vote in preference.votes:
            votes[vote.principle].append((preference.source, vote))
    found = {}
    for principle in sorted(votes):
        pairs = [pair for pair, _ in votes[principle]]
        own = [vote for _, vote in votes[principle]]
        flips = [None if (turned := flipped(vote)) is None else float(turned) for vote in own]
        silent: list[float | None] = [float(vote.p_first is None) for vote in own]
        found[principle] = [
            estimate("label.flip_rate", principle, flips, pairs),
            estimate(
                "label.slot_lean",
                principle,
                [position_bias(vote) for vote in own],
                pairs,
                proportion=False,
            ),
            estimate("label.abstention_rate", principle, silent, pairs),
            estimate(
                "label.p_first", principle, [vote.p_first for vote in own], pairs, proportion=False
            ),
        ]
    return found


@dataclass(frozen=True)
class Human:
    """Labels against those of people."""

    agreement: Score
    """Share of pairs whose likelier reply is the one that people chose; one half for a label of exactly one half."""
    ece: float | None
    """Of the likelier reply's probability."""
    curve: list[Bin]


def against_people(preferences: Sequence[Preference], human: Mapping[str, float]) -> Human:
    """`human`: pair -> P(first is better) by people; pairs that they left at one half say nothing and are left out."""
    asked = [p for p in preferences if p.source in human and human[p.source] != 0.5]
    right: list[float | None] = []
    sure, outcomes = [], []
    for preference in asked:
        p, first = preference.p_first, human[preference.source] > 0.5
        right.append(None if p is None else 0.5 if p == 0.5 else float((p > 0.5) == first))
        if p is not None:
            sure.append(max(p, 1 - p))
            outcomes.append(float((p >= 0.5) == first))
    score = estimate("label.agreement", "labels", right, [p.source for p in asked])
    return Human(score, ece(sure, outcomes), reliability(sure, outcomes))
