"""One reviewer's way through the items: what is shown, what is answered, what is taken back.

Each answer is a row of the judgements' file, on the disk before the next item is shown. Several
processes may append to one file.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cai.errors import StoreError, blame
from cai.files import write_errors
from cai.records import FrozenModel, HumanJudgement
from cai.review.items import Item
from cai.seeds import rng
from cai.store import append_rows, parse_row, truncate_torn_line

MAX_SECONDS = 86400.0
BEGINNING = b'{"id":"'
"""Of each line."""
VERDICTS = {
    "pair": ("A", "B", "tie", "skip"),
    "reply": ("answered", "refused", "incorrect", "propositions", "skip"),
}
"""Task -> what the page may answer."""


class AnswerError(Exception):
    """An answer that does not fit its item; the text says why."""


class ReviewAnswer(FrozenModel):
    """What the page sends of an item."""

    number: int = Field(ge=0)
    verdict: Literal["A", "B", "tie", "answered", "refused", "incorrect", "propositions", "skip"]
    propositions: dict[str, bool] | None = None
    ratings: tuple[Annotated[int, Field(ge=1, le=7)] | None, ...] = Field((), max_length=2)
    """Of the replies in the order shown."""
    seconds: float = Field(ge=0, allow_inf_nan=False)


@dataclass(frozen=True)
class Questions:
    """What is asked of an item besides the verdict."""

    propositions: Mapping[str, str]
    """Proposition -> question, of each reply; empty: answered, refused or incorrect."""
    likert: bool
    """Whether each reply is rated from 1 to 7."""


def append_judgement(path: Path, row: HumanJudgement) -> None:
    """Append a row, which is on the disk when this returns; other processes wait meanwhile.

    Raises:
        StoreError: the file cannot be written.
    """
    with write_errors(path), path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        truncate_torn_line(path)
        append_rows(path, [row])
        os.fsync(file.fileno())


def latest(rows: Iterable[HumanJudgement]) -> dict[tuple[str, str], HumanJudgement]:
    """(reviewer, item) -> the judgement that counts, in the order in which they were given."""
    current: dict[tuple[str, str], HumanJudgement] = {}
    for row in rows:
        current.pop((row.reviewer, row.item), None)
        if row.verdict != "undone":
            current[row.reviewer, row.item] = row
    return current


def read_judgements(path: Path) -> list[HumanJudgement]:
    """The rows of the file, in its order; none where there is no file.

    A line that a kill has torn is no row yet. It is left in the file until the next row is written.

    Raises:
        StoreError: a line is no judgement, as file:line.
    """
    if not path.exists():
        return []
    with blame(StoreError, f"{path}: cannot read"):
        data = path.read_bytes()
    *lines, rest = data.split(b"\n")
    if not lines and not rest.startswith(BEGINNING[: len(rest)]):
        raise StoreError(f"{path}:1: no judgement: name another file")
    rows = []
    for number, line in enumerate(lines, 1):
        with blame(StoreError, f"{path}:{number}: no judgement"):
            fields = json.loads(line)
        if not isinstance(fields, dict):
            raise StoreError(f"{path}:{number}: no judgement: name another file")
        rows.append(parse_row(fields, HumanJudgement, f"{path}:{number}"))
    return rows


class Session:
    """The items in order, and one reviewer's answers. Safe for several threads.

    Args:
        seed: of the order in which the two replies of a pair are shown.

    Raises:
        StoreError: the file holds something other than judgements.
    """

    def __init__(
        self,
        items: Sequence[Item],
        output: Path,
        reviewer: str,
        questions: Questions,
        seed: int = 0,
    ) -> None:
        self.items = items
        self.output = output
        self.reviewer = reviewer
        self.questions = questions
        self.seed = seed
        self._lock = threading.Lock()
        numbers = {item.id: number for number, item in enumerate(items)}
        self._answers: dict[int, HumanJudgement] = {
            numbers[item]: row
            for (name, item), row in latest(read_judgements(output)).items()
            if name == reviewer and item in numbers
        }

    def progress(self, after: int = -1) -> dict[str, Any]:
        """How many items there are and are answered, and the first one after `after` that is not.

        Behind the last one it goes on with the first.
        """
        total = len(self.items)
        with self._lock:
            numbers = (number % total for number in range(after + 1, after + 1 + total))
            return {
                "total": total,
                "done": len(self._answers),
                "next": next((n for n in numbers if n not in self._answers), None),
                "reviewer": self.reviewer,
            }

    def view(self, number: int) -> dict[str, Any]:
        """What the page shows of an item: its texts, and the reviewer's answer to it.

        Raises:
            AnswerError: there is no such item.
        """
        item = self._item(number)
        order = self._order(item)
        judged = self._answers.get(number)
        return {
            "number": number,
            "task": item.task,
            "kind": item.kind,
            "chat": [message.model_dump() for message in item.chat],
            "replies": [item.replies[index] for index in order],
            "likert": self.questions.likert,
            "propositions": dict(self.questions.propositions) if item.task == "reply" else {},
            "answer": None if judged is None else _shown_answer(judged, order),
        }

    def answer(self, answer: ReviewAnswer) -> None:
        """Write an answer to the disk; the item's earlier one no longer counts.

        Raises:
            AnswerError: it does not fit the item.
            StoreError: the file cannot be written.
        """
        item = self._item(answer.number)
        self._check(item, answer)
        order = self._order(item)
        verdict: str = answer.verdict
        if verdict in ("A", "B"):
            verdict = ("first", "second")[order[verdict == "B"]]
        rated = answer.ratings or (None,) * len(order)
        self._write(
            answer.number,
            order=order if item.task == "pair" else None,
            verdict=verdict,
            propositions=answer.propositions,
            ratings=[rated[order.index(index)] for index in range(len(order))]
            if any(rated)
            else (),
            seconds=round(min(answer.seconds, MAX_SECONDS), 2),
        )

    def undo(self) -> int | None:
        """Take the last answer back; return its item's number, or None where there is none."""
        with self._lock:
            number = next(reversed(self._answers), None)
        if number is not None:
            self._write(number, verdict="undone", seconds=0)
        return number

    def _write(self, number: int, **fields: Any) -> None:
        item = self.items[number]
        row = HumanJudgement.model_validate(
            {
                "reviewer": self.reviewer,
                "item": item.id,
                "task": item.task,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                **fields,
            }
        )
        with self._lock:
            append_judgement(self.output, row)
            self._answers.pop(number, None)  # to the end: the last answer is the first undone
            if row.verdict != "undone":
                self._answers[number] = row

    def _item(self, number: int) -> Item:
        if not 0 <= number < len(self.items):
            raise AnswerError(f"no item {number}: there are {len(self.items)}")
        return self.items[number]

    def _order(self, item: Item) -> tuple[int, ...]:
        """The order in which replies are shown: at random, and the same whenever it is shown."""
        indices = list(range(len(item.replies)))
        rng(self.seed, "review", self.reviewer, item.id).shuffle(indices)
        return tuple(indices)

    def _check(self, item: Item, answer: ReviewAnswer) -> None:
        if answer.verdict not in VERDICTS[item.task]:
            raise AnswerError(f"{answer.verdict!r} is no verdict on a {item.task}")
        wanted = self.questions.propositions if answer.verdict == "propositions" else {}
        if set(answer.propositions or {}) != set(wanted):
            raise AnswerError("`propositions` must hold every proposition of the rubric, or none")
        if answer.ratings and not self.questions.likert:
            raise AnswerError("no ratings are wanted: start with --likert")
        if len(answer.ratings) not in (0, len(item.replies)):
            raise AnswerError(f"{len(item.replies)} ratings are wanted, or none")


def _shown_answer(row: HumanJudgement, order: Sequence[int]) -> dict[str, Any]:
    """A judgement in the words of the page, which knows replies as A and B only."""
    verdict: str = row.verdict
    if verdict in ("first", "second"):
        verdict = "AB"[order.index(verdict == "second")]
    ratings = [row.ratings[index] for index in order] if row.ratings else []
    return {"verdict": verdict, "propositions": row.propositions, "ratings": ratings}
