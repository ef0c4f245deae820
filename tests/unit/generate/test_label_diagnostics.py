"""Diagnostics of labels: agreement, calibration, position bias, and the report of a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from generate_toys import sigma

from cai.cli import main
from cai.evals.agreement import ece, entropy, krippendorff, reliability
from cai.records import Preference, Vote
from cai.report.labels import by_principle, compare_with_humans, diagnose


def test_alpha_by_hand() -> None:
    """Units (0, 0), (1, 1): no disagreement, alpha 1.

    Units (0, 1), (1, 0): D_o = 1; of the 12 ordered pairs of 0, 1, 1, 0 eight differ by one: D_e =
    2/3, alpha = -1/2. A unit with one value does not count. With equal values in all units, D_e is
    0 and alpha is undefined.
    """
    assert krippendorff([[0, 0], [1, 1]]) == 1
    assert krippendorff([[0, 1], [1, 0]]) == pytest.approx(-0.5)
    assert krippendorff([[0, 1], [1, 0], [7]]) == pytest.approx(-0.5)
    assert krippendorff([[1, 1], [1, 1]]) is None
    assert krippendorff([[1]]) is None


def test_calibration_by_hand() -> None:
    """0.75 twice, right once: a gap of 1/4 with weight 2/3.

    0.95 once, right: a gap of 0.05 with weight 1/3.
    """
    assert ece([0.75, 0.75, 0.95], [1, 0, 1]) == pytest.approx(0.25 * 2 / 3 + 0.05 / 3)
    assert [tuple(b) for b in reliability([0.75, 0.75, 1.0], [1, 0, 1])] == [
        (0.75, 0.5, 2),
        (1.0, 1.0, 1),
    ]
    assert ece([], []) is None
    assert (entropy(0.5), entropy(1.0)) == (1.0, 0.0)


def preference(number: int, *votes: tuple[str, float, float]) -> Preference:
    """Votes as (principle, log-odds of A, log-odds of A with the replies swapped)."""
    rows = tuple(
        Vote(
            principle=name,
            logprobs=(margin, 0.0),
            logprobs_swapped=(swapped, 0.0),
            p_first=sigma((margin - swapped) / 2),
        )
        for name, margin, swapped in votes
    )
    mean = sum(vote.p_first or 0 for vote in rows) / len(rows)
    return Preference(source=str(number), p_first=mean, votes=rows)


def test_what_a_judge_that_always_says_a_looks_like() -> None:
    rows = [preference(i, ("kind", 3.0, 3.0)) for i in range(20)]
    flips, position_bias, silent, mean = by_principle(rows)["kind"]
    assert (flips.mean, position_bias.mean) == (1.0, 3.0)
    assert (silent.mean, mean.mean) == (0.0, 0.5)
    metrics = {score.metric: score.mean for _, score in diagnose(rows).rows}
    assert (metrics["label.flip_rate"], metrics["label.entropy"]) == (1.0, 1.0)


def test_agreement_with_people() -> None:
    """Right, wrong, a tied label, a tied human verdict, no label: 1.5 of 3, one unscored."""
    rows = [
        preference(0, ("a", 2.0, -2.0)),
        preference(1, ("a", 2.0, -2.0)),
        preference(2, ("a", 1.0, 1.0)),
    ]
    rows += [preference(3, ("a", 2.0, -2.0)), Preference(source="4", p_first=None, unscored="why")]
    result = compare_with_humans(rows, {"0": 1.0, "1": 0.0, "2": 1.0, "3": 0.5, "4": 1.0})
    assert (result.agreement.mean, result.agreement.n, result.agreement.unscored) == (0.5, 3, 1)


def test_report_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        json.loads(preference(i, ("kind", 2.0, -2.0), ("true", 1.0, 1.0)).line()) | {"human": 1}
        for i in range(6)
    ]
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit) as stop:
        main(["label", "--report", str(file)])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for text in (
        "6 pairs",
        "agreement with people",
        "1.000",
        "by principle",
        "kind",
        "true",
        "Krippendorff",
    ):
        assert text in out
    file.write_text(json.dumps({"p_first": 0.5, "human": 2}) + "\n")
    with pytest.raises(SystemExit) as stop:
        main(["label", "--report", str(file)])
    assert stop.value.code == 2
    assert f"{file}:1: `human` must be a number from 0 to 1" in capsys.readouterr().err
