"""People's verdicts on two subjects: rows of `prompt`, `first`, `second` and `verdict`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai.errors import StoreError

if TYPE_CHECKING:
    from cai.evals.judged_pairs import JudgedPair
    from cai.records import PromptDraw

VERDICTS: dict[str, float] = {"first": 1.0, "second": 0.0, "tie": 0.5}


def read_verdicts(
    file: Path, draws: Sequence[PromptDraw], subjects: Collection[str]
) -> list[JudgedPair]:
    """The verdicts in a file, each on a prompt of `draws` if there are any.

    A verdict on another prompt or subject is left out, and counted on standard error.

    Args:
        subjects: names that may be compared; none: all.

    Raises:
        StoreError: the file can't be read, or a row is wrong; the message begins with file:row.
    """
    from cai.data.readers import located_rows, row_prompt
    from cai.data.tables import Cells
    from cai.evals.judged_pairs import people_comparison

    known = {draw.prompt.chat: draw.prompt for draw in draws}
    columns = frozenset(("first", "second", "verdict", "first_reply", "second_reply"))
    rows, foreign = [], 0
    for location, row in located_rows(file, Cells(known=columns, texts=columns)):
        names = _names(row, location)
        verdict = _verdict(row, location)
        others = {key: value for key, value in row.items() if key not in columns}
        prompt = row_prompt(others, location)
        if (draws and prompt.chat not in known) or (subjects and not set(names) <= set(subjects)):
            foreign += 1
            continue
        prompt = known.get(prompt.chat, prompt)
        rows.append(people_comparison(prompt, names, verdict, _words(row)))
    if foreign:
        print(
            f"{file}: {foreign:,} of {foreign + len(rows):,} verdicts left out: on another prompt"
            " than those of --data, or on another subject",
            file=sys.stderr,
        )
    if not rows:
        raise StoreError(f"{file}: no verdict to use")
    return rows


def _names(row: Mapping[str, Any], location: str) -> tuple[str, str]:
    first, second = row.get("first"), row.get("second")
    if not isinstance(first, str) or not isinstance(second, str) or first == second:
        raise StoreError(f"{location}: `first` and `second` must be names of two subjects")
    return first, second


def _verdict(row: Mapping[str, Any], location: str) -> float | None:
    verdict = row.get("verdict")
    if verdict is None:
        return None
    if verdict not in VERDICTS:
        raise StoreError(
            f"{location}: `verdict` must be first, second, tie or null; it is {verdict!r}"
        )
    return VERDICTS[verdict]


def _words(row: Mapping[str, Any]) -> tuple[int, int] | None:
    """Words of the two replies, where a row has them."""
    replies = row.get("first_reply"), row.get("second_reply")
    if not all(isinstance(reply, str) for reply in replies):
        return None
    first, second = (len(str(reply).split()) for reply in replies)
    return first, second
