"""Label diagnostics, on numbers small enough to follow by hand."""

from __future__ import annotations

import pytest
from report_toys import preference, vote

from cai.records import Preference
from cai.report.labels import by_principle, compare_with_humans, diagnose, flipped, position_bias


def test_flips_and_position_bias_by_hand() -> None:
    """Margins 2 and 1: (A) twice, a flip, bias 1.5; 2 and −1: the first reply twice, bias .5."""
    assert flipped(vote((-0.1, -2.1), (-0.5, -1.5), 0.6)) is True
    assert position_bias(vote((-0.1, -2.1), (-0.5, -1.5), 0.6)) == pytest.approx(1.5)
    assert flipped(vote((-0.1, -2.1), (-1.5, -0.5), 0.8)) is False
    assert position_bias(vote((-0.1, -2.1), (-1.5, -0.5), 0.8)) == pytest.approx(0.5)
    assert flipped(vote((-1.0, -1.0), (-0.5, -1.5), 0.5)) is None, "a tie prefers neither"
    assert (
        flipped(vote(None, (-0.5, -1.5), None))
        is position_bias(vote(None, (-0.5, -1.5), None))
        is None
    )


def test_label_diagnostics_by_hand() -> None:
    """Three pairs of votes.

    x: a flip (p .6) and a consistent vote (p .9), label .75; y: a consistent vote and an
    abstention, label .2; z: an abstention, no label. Flips 1 of 3 known; abstentions 2 of 5 votes;
    pairs without label 1 of 3; spread only of x, .3; p_first mean .475.
    """
    flip, consistent, abstention = (
        vote((1, 0), (2, 0), 0.6),
        vote((1, 0), (0, 2), 0.9),
        vote(None, None, None),
    )
    diagnostics = diagnose(
        [
            Preference(source="x", p_first=0.75, votes=(flip, consistent)),
            Preference(source="y", p_first=0.2, votes=(vote((0, 1), (1, 0), 0.2), abstention)),
            Preference(source="z", p_first=None, votes=(abstention,), unscored="no option found"),
        ]
    )
    rows = {score.metric: score for _, score in diagnostics.rows}
    assert rows["label.flip_rate"].mean == pytest.approx(1 / 3)
    assert (rows["label.flip_rate"].n, rows["label.flip_rate"].unscored) == (3, 2)
    assert rows["label.abstention_rate"].mean == pytest.approx(2 / 5)
    assert rows["label.unscored_rate"].mean == pytest.approx(1 / 3)
    assert rows["label.spread"].mean == pytest.approx(0.3)
    assert rows["label.p_first"].mean == pytest.approx(0.475)
    assert rows["label.p_first"].unscored == 1
    assert rows["label.confidence"].mean == pytest.approx((0.25 + 0.3) / 2)
    assert diagnostics.unscored == [("no option found", 1)]
    assert diagnostics.bins == [0, 0, 1, 0, 0, 0, 0, 1, 0, 0]


def test_a_certain_label_falls_into_the_last_bin() -> None:
    assert diagnose(
        [Preference(source="x", p_first=1.0), Preference(source="y", p_first=0.0)]
    ).bins == [1, *[0] * 8, 1]


def test_a_judge_that_always_prefers_a() -> None:
    rows = [preference(i, ("kind", 3.0, 3.0)) for i in range(20)]
    flips, bias, abstentions, p_first = by_principle(rows)["kind"]
    assert (flips.mean, bias.mean, abstentions.mean, p_first.mean) == (1.0, 3.0, 0.0, 0.5)
    numbers = {score.metric: score.mean for _, score in diagnose(rows).rows}
    assert (numbers["label.flip_rate"], numbers["label.entropy"]) == (1.0, 1.0)


def test_agreement_with_people() -> None:
    """Right, wrong, a tie, no human label, no label: 1.5 of 3, one unscored."""
    rows = [preference(0, ("a", 2.0, -2.0)), preference(1, ("a", 2.0, -2.0))]
    rows += [preference(2, ("a", 1.0, 1.0)), preference(3, ("a", 2.0, -2.0))]
    rows.append(Preference(source="4", p_first=None, unscored="why"))
    human = compare_with_humans(rows, {"0": 1.0, "1": 0.0, "2": 1.0, "3": 0.5, "4": 1.0})
    agreement = human.agreement
    assert (agreement.mean, agreement.n, agreement.unscored) == (0.5, 3, 1)
