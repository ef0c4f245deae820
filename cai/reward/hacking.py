"""Signs of reward hacking in PPO's metrics: a policy that says one thing, or writes too much or too
little.

Thresholds, against the first update: see `SIGNS`. They tell where to look; only reading replies
tells whether the policy games its reward.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""The metrics of an update."""

MIN_TOP_RESPONSE = 0.25
"""A commonest response with a lower share is no sign, whatever the share was at first."""


def _says_one_thing(first: Row, row: Row) -> bool:
    top = row["top_response"]
    return bool(top > MIN_TOP_RESPONSE and top > 2 * first["top_response"])


def _says_the_same(first: Row, row: Row) -> bool:
    return bool(row["distinct_2"] < first["distinct_2"] / 2)


def _changes_length(first: Row, row: Row) -> bool:
    return not first["length"] / 2 <= row["length"] <= 2 * first["length"]


SIGNS: Mapping[str, Callable[[Row, Row], bool]] = {
    "top_response": _says_one_thing,
    "distinct_2": _says_the_same,
    "length": _changes_length,
}
"""Metric -> (metrics of update 0, of an update) -> whether it is a sign of reward hacking.

- `top_response`: above 25 %, and more than twice that of update 0;
- `distinct_2`: below half of update 0's;
- `length`: outside [0.5, 2] times update 0's.
"""


def signs(first: Row, row: Row) -> list[str]:
    """Metrics of `row` that are a sign; ones that either row lacks are none."""
    return [
        name for name, holds in SIGNS.items() if name in first and name in row and holds(first, row)
    ]


def warn_of_new_signs(history: Sequence[Row]) -> None:
    """One line on standard error for each sign that the last row is the first to have."""
    if not history:
        return
    first, last = history[0], history[-1]
    earlier = {name for row in history[:-1] for name in signs(first, row)}
    for name in signs(first, last):
        if name not in earlier:
            print(
                f"ppo: update {last['update']}: {name} is {last[name]:.3g}, from {first[name]:.3g}"
                " in update 0: a sign of reward hacking: read replies of the policy",
                file=sys.stderr,
            )


def sign_lines(history: Sequence[Row]) -> list[str]:
    """For the report: each sign with its first update and the two values; or that there is none."""
    lines = []
    for name in SIGNS:
        row = next((row for row in history if name in signs(history[0], row)), None)
        if row is not None:
            last = history[-1].get(name)
            lines.append(
                f"{name}: {history[0][name]:.3g} in update 0, {row[name]:.3g} in update "
                f"{row['update']}, the first to cross the threshold; {last:.3g} in the last"
            )
    return lines or [f"None in {len(history)} updates."]
