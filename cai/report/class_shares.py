"""Shares of the rubric's classes among the replies of each kind of prompt.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from cai.artifacts import subjects_of
from cai.records import EvalReply, Kind, Score
from cai.statistics.estimates import estimate


@dataclass(frozen=True)
class ClassTable:
    """The classes of one kind of prompt."""

    kind: Kind
    subjects: list[str]
    rows: list[tuple[str, bool | None, list[Score]]]
    """(class, whether it is correct behaviour, a share for each subject); the commonest first."""


def class_shares(replies: Iterable[EvalReply]) -> list[ClassTable]:
    """A table for each kind of prompt; `replies` may be a stream.

    A reply without a class counts as unscored. Intervals are over prompts.
    """
    graded: dict[Kind, list[tuple[str, str, str | None]]] = {}
    correct: dict[tuple[Kind, str], bool | None] = {}
    for reply in replies:
        if reply.kind is None:
            continue
        grade = reply.grade
        name = None if grade.unscored is not None else grade.class_
        graded.setdefault(reply.kind, []).append((reply.subject, reply.source, name))
        if name is not None:
            correct[reply.kind, name] = grade.correct
    return [_table(kind, graded[kind], correct) for kind in get_args(Kind) if kind in graded]


def _table(
    kind: Kind,
    graded: list[tuple[str, str, str | None]],
    correct: dict[tuple[Kind, str], bool | None],
) -> ClassTable:
    subjects = subjects_of(subject for subject, _, _ in graded)
    counts: dict[str, int] = {}
    for _, _, name in graded:
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    names = sorted(counts, key=lambda name: (-counts[name], name))
    rows = [
        (name, correct[kind, name], [_share(kind, name, s, graded) for s in subjects])
        for name in names
    ]
    return ClassTable(kind, subjects, rows)


def _share(kind: Kind, name: str, subject: str, graded: list[tuple[str, str, str | None]]) -> Score:
    known = [(source, one) for of, source, one in graded if of == subject]
    values = [None if one is None else float(one == name) for _, one in known]
    prompts = [source for source, _ in known]
    return estimate(f"refusal.class.{kind}.{name}", subject, values, prompts, proportion=True)
