"""What people and the machine may each say of an item, question by question.

Pure functions: judgements and items in, values to compare out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from cai.records import Degree, Grade, HumanJudgement
from cai.review.items import Item
from cai.review.session import latest
from cai.rubric import CompiledRubric, grade_propositions

Value = Hashable | None


@dataclass(frozen=True)
class Judged:
    """An item with the judgements that count, skipped ones left out."""

    item: Item
    by_person: dict[str, HumanJudgement]


@dataclass(frozen=True)
class Question:
    """Something that a person and the machine may each say of an item; None where one does not."""

    name: str
    person: Callable[[Item, HumanJudgement], Value]
    machine: Callable[[Item], Value]


def judged_items(rows: Iterable[HumanJudgement], items: Iterable[Item]) -> tuple[list[Judged], int]:
    """(items with their judgements, number of judged items that are not among `items`)."""
    by_id = {item.id: item for item in items}
    by_item: dict[str, dict[str, HumanJudgement]] = {}
    for (reviewer, item), row in latest(rows).items():
        if row.verdict != "skip":
            by_item.setdefault(item, {})[reviewer] = row
    known = [Judged(by_id[item], rows) for item, rows in by_item.items() if item in by_id]
    return known, len(by_item) - len(known)


# ---- questions ----


def pair_questions(judged: Sequence[Judged]) -> list[Question]:
    """Which reply is better: by the label, then by each principle that voted."""

    def person(item: Item, row: HumanJudgement) -> Value:
        return row.verdict if item.task == "pair" else None

    def by_principle(principle: str) -> Callable[[Item], Value]:
        def machine(item: Item) -> Value:
            votes = [vote.p_first for vote in item.votes if vote.principle == principle]
            return choice(votes[0]) if votes else None

        return machine

    principles = sorted({vote.principle for one in judged for vote in one.item.votes})
    overall = Question("better reply", person, lambda item: choice(item.p_first))
    return [overall] + [
        Question(
            f"principle {name}", _where_machine(person, by_principle(name)), by_principle(name)
        )
        for name in principles
    ]


def reply_questions(judged: Sequence[Judged], rubric: CompiledRubric | None) -> list[Question]:
    """What a reply is: answered, refused or incorrect; its class; each class and proposition."""

    def person_grade(item: Item, row: HumanJudgement) -> Grade | None:
        if rubric is None or set(row.propositions or {}) != set(rubric.questions):
            return None  # there are none, or those of another rubric
        values = {id: float(holds) for id, holds in (row.propositions or {}).items()}
        return grade_propositions(rubric, values, kind=item.kind)

    def person_class(item: Item, row: HumanJudgement) -> Value:
        grade = person_grade(item, row)
        return None if grade is None else grade.class_

    def person_verdict(item: Item, row: HumanJudgement) -> Value:
        if item.task != "reply":
            return None
        if row.verdict != "propositions":
            return row.verdict
        grade = person_grade(item, row)
        return None if grade is None else _verdict(grade.correct, grade.degree)

    def machine_verdict(item: Item) -> Value:
        grade = None if item.graded is None else item.graded.grade
        return None if grade is None else _verdict(grade.correct, grade.degree)

    def machine_class(item: Item) -> Value:
        return None if item.graded is None else item.graded.grade.class_

    classes = sorted(
        {str(name) for one in judged if (name := machine_class(one.item)) is not None}
        | {
            str(name)
            for one in judged
            for row in one.by_person.values()
            if (name := person_class(one.item, row)) is not None
        }
    )
    return [
        Question("reply", person_verdict, machine_verdict),
        Question("class", person_class, machine_class),
        *(_is_class(name, person_class, machine_class) for name in classes),
        *(_proposition(id) for id in (rubric.questions if rubric else ())),
    ]


def _is_class(
    name: str,
    person: Callable[[Item, HumanJudgement], Value],
    machine: Callable[[Item], Value],
) -> Question:
    def same(value: Value) -> Value:
        return None if value is None else value == name

    return Question(
        f"class {name}",
        lambda item, row: same(person(item, row)),
        lambda item: same(machine(item)),
    )


def _proposition(id: str) -> Question:
    def machine(item: Item) -> Value:
        p = None if item.graded is None else item.graded.grade.propositions.get(id)
        return None if p is None else p > 0.5

    return Question(
        f"proposition {id}", lambda item, row: (row.propositions or {}).get(id), machine
    )


def _where_machine(
    person: Callable[[Item, HumanJudgement], Value], machine: Callable[[Item], Value]
) -> Callable[[Item, HumanJudgement], Value]:
    """A person's value of the items of which the machine says something."""
    return lambda item, row: None if machine(item) is None else person(item, row)


def choice(p_first: float | None) -> Value:
    """The verdict of a label; None where it is unknown."""
    if p_first is None:
        return None
    return "tie" if p_first == 0.5 else "first" if p_first > 0.5 else "second"


def _verdict(correct: bool | None, degree: Degree | None) -> Value:
    if correct is None:
        return None
    if not correct:
        return "incorrect"
    return "answered" if degree == "full_compliance" else "refused"
