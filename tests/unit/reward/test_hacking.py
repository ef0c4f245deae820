"""Signs of reward hacking, on both sides of each threshold."""

from __future__ import annotations

from typing import Any

import pytest

from cai.reward import hacking

FIRST: dict[str, Any] = {"update": 0, "top_response": 0.1, "distinct_2": 0.8, "length": 40.0}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, []),
        ({"top_response": 0.26}, ["top_response"]),
        ({"top_response": 0.25}, []),
        ({"distinct_2": 0.39}, ["distinct_2"]),
        ({"distinct_2": 0.4}, []),
        ({"length": 19.9}, ["length"]),
        ({"length": 20.0}, []),
        ({"length": 80.0}, []),
        ({"length": 80.1}, ["length"]),
        ({"top_response": 0.5, "length": 5.0}, ["top_response", "length"]),
    ],
)
def test_thresholds(changes: dict[str, float], names: list[str]) -> None:
    assert hacking.signs(FIRST, FIRST | changes) == names


def test_a_top_response_that_was_common_at_first_is_no_sign() -> None:
    assert hacking.signs(FIRST | {"top_response": 0.2}, FIRST | {"top_response": 0.4}) == []


def test_rows_without_the_metrics_have_no_sign() -> None:
    assert hacking.signs({"update": 0}, FIRST) == []


def test_a_sign_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    history = [FIRST]
    for update, length in enumerate([90.0, 40.0, 90.0], start=1):
        history.append(FIRST | {"update": update, "length": length})
        hacking.warn_of_new_signs(history)
    assert capsys.readouterr().err == (
        "ppo: update 1: length is 90, from 40 in update 0: "
        "a sign of reward hacking: read replies of the policy\n"
    )
    assert hacking.sign_lines(history) == [
        "length: 40 in update 0, 90 in update 1, the first to cross the threshold; 90 in the last"
    ]
    assert hacking.sign_lines([FIRST]) == ["None in 1 updates."]
