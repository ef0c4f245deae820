"""People's verdicts on two subjects: rows of `prompt`, `first`, `second` and `verdict`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cai.data.readers import located_rows, row_prompt
from cai.data.tables import Cells
from cai.errors import StoreError
from cai.evals.judged_pairs import JudgedPair
from cai.records import Prompt, PromptDraw

VERDICTS: dict[str, float] = {"first": 1.0, "second": 0.0, "tie": 0.5}


def read_verdicts(
    file: Path, draws: Sequence[PromptDraw], subjects: Collection[str]
) -> tuple[list[JudgedPair], int]:
    """(the verdicts in a file, each on a prompt of `draws` if there are any; how many are left out,
    because they are on another prompt or subject).

    Args:
        subjects: names that may be compared; none: all.

    Raises:
        StoreError: the file can't be read, or a row is wrong; the message begins with file:row.
    """
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
    return rows, foreign


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


def people_comparison(
    prompt: Prompt, subjects: tuple[str, str], verdict: float | None, words: tuple[int, int] | None
) -> JudgedPair:
    """A verdict of people on two subjects."""
    return JudgedPair(
        source=prompt.id,
        category=prompt.category,
        subjects=subjects,
        words=words,
        p_first=verdict,
        unscored="no verdict" if verdict is None else None,
    )
