"""Prefixes of tried calls, and rows drawn from them."""

from __future__ import annotations

import pytest
from simulated_machines import work

from cai.simulation.workload import Call, TriedCall, prefix_families, workload

SHOTS, OTHER = "a" * 400, "b" * 300


def tried(text: str, wave: int = 0) -> TriedCall:
    """A token for every four characters."""
    return TriedCall(text, len(text) / 4, 8, wave)


def test_prefixes_of_several_rows() -> None:
    """Two sets of examples, and questions that share nothing."""
    rows = [
        [tried(f"{i} question"), tried(f"{shots}{i} is the reply", 1)]
        for i, shots in enumerate([SHOTS, SHOTS, OTHER, OTHER])
    ]
    result = workload("revise", rows, 2.0)
    assert result is not None
    assert result.rows_per_prompt == 2
    assert [row[0].prefix for row in result.rows] == [None] * 4
    assert [row[1].shared for row in result.rows] == pytest.approx([100, 100, 75, 75])
    assert len(result.prefixes) == 2


def test_what_one_row_repeats_is_its_own() -> None:
    """The second call begins with the first's whole prompt, which no other row has."""
    rows = [[tried(c * 80), tried(c * 80 + "and more", 1)] for c in "xy"]
    result = workload("revise", rows)
    assert result is not None
    assert [[call.prefix for call in row] for row in result.rows] == [[None, None]] * 2
    assert [row[1].repeated for row in result.rows] == pytest.approx([20, 20])


def test_calls_at_once_repeat_nothing() -> None:
    result = workload("pair", [[tried("x" * 80), tried("x" * 80)]])
    assert result is not None
    assert [call.repeated for call in result.rows[0]] == [0, 0]


def test_short_prefixes_are_not_counted() -> None:
    result = workload("revise", [[tried(f"user: {i}")] for i in range(4)])
    assert result is not None
    assert result.prefixes == {}


def test_rows_without_a_call_count_as_rows() -> None:
    """Half of the rows call nothing, so half as many calls go with each prompt."""
    result = workload("revise", [[tried("x")], []])
    assert result is not None
    assert result.rows_per_prompt == 0.5
    assert workload("revise", [[]]) is None


def test_waves_have_prefixes_of_their_own() -> None:
    """All replies begin with a short system turn, all critiques with that and examples."""
    system = "s" * 80
    rows = [[tried(f"{system}{i}?"), tried(f"{system}{SHOTS}{i}!", 1)] for i in range(4)]
    result = workload("revise", rows)
    assert result is not None
    assert [call.shared for call in result.rows[0]] == pytest.approx([20, 120])


def test_families_of_nothing() -> None:
    assert list(prefix_families([], 1)) == []
    assert list(prefix_families([("abc", 0)], 1)) == []


def test_every_tried_row_is_drawn_equally_often() -> None:
    rows = work(*[(Call(i, 1),) for i in range(1, 4)])
    drawn = [call.prompt for (call,) in rows.draws(9, 0)]
    assert sorted(drawn) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [call.prompt for (call,) in rows.draws(4, 0)] == drawn[:4]
    assert rows.draws(100, 0) != rows.draws(100, 1)


def test_the_spread_by_hand() -> None:
    """Rows of 10 and 20 tokens: t(1) = 12.706 times 5, of 15."""
    rows = work((Call(9, 1),), (Call(19, 1),))
    assert rows.spread == pytest.approx(12.706 * 5 / 15, rel=1e-4)
    assert work((Call(9, 1),)).spread is None
