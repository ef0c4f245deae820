"""What people's judgements say: agreement of people, and of people with the machine; ratings; wins.

Pure functions: judgements and items in, `Score` rows out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations

from cai.records import Score
from cai.review.items import Item
from cai.review.questions import Judged, Question, Value, choice
from cai.statistics.estimates import estimate
from cai.statistics.reliability import (
    agreement,
    cohen_kappa,
    coincidence_tables,
    confusion_tables,
    nominal_alpha,
    ordinal_alpha,
)

RATINGS = (1, 2, 3, 4, 5, 6, 7)
MACHINE = "machine"
PEOPLE = "people"
_CHOICES = {"first": 1.0, "tie": 0.5, "second": 0.0}


# ---- agreement ----


def question_scores(
    question: Question, judged: Sequence[Judged], *, pairwise: bool = True, seed: int = 0
) -> list[Score]:
    """Alpha of all people, kappa of all people with the machine; `pairwise`: of every two raters.

    A row without any item is left out.
    """
    values: list[dict[str, Hashable]] = []
    machine: list[Value] = []
    for one in judged:
        by_person = {
            name: value
            for name, row in one.by_person.items()
            if (value := question.person(one.item, row)) is not None
        }
        if by_person:
            values.append(by_person)
            machine.append(question.machine(one.item))
    people = sorted({name for row in values for name in row})
    observed = {value for row in values for value in row.values()} | set(machine) - {None}
    categories = sorted(observed, key=str)

    def score(statistic: str, raters: str, items: Sequence[Sequence[tuple[Value, Value]]]) -> Score:
        tables = confusion_tables(items, categories)
        return agreement(f"{statistic} {question.name}", raters, tables, cohen_kappa, seed=seed)

    def with_machine(names: Iterable[str]) -> list[list[tuple[Value, Value]]]:
        return [
            [(row[name], label) for name in names if name in row and label is not None]
            for row, label in zip(values, machine, strict=True)
        ]

    coincidences = coincidence_tables([list(row.values()) for row in values], categories)
    rows = [agreement(f"alpha {question.name}", PEOPLE, coincidences, nominal_alpha, seed=seed)]
    rows.append(score("kappa", f"{PEOPLE} / {MACHINE}", with_machine(people)))
    if pairwise and len(people) > 1:
        for first, second in combinations(people, 2):
            both = [
                [(row[first], row[second])] if {first, second} <= row.keys() else []
                for row in values
            ]
            rows.append(score("kappa", f"{first} / {second}", both))
        rows += [score("kappa", f"{name} / {MACHINE}", with_machine([name])) for name in people]
    return [row for row in rows if row.n]


def same_choice(judged: Sequence[Judged]) -> Score:
    """Share of choices that are the machine's, ties of either left out (arXiv:2309.00267, 3.2)."""
    same, clusters = [], []
    for one in judged:
        label = choice(one.item.p_first)
        for row in one.by_person.values():
            if label in ("first", "second") and row.verdict in ("first", "second"):
                same.append(float(row.verdict == label))
                clusters.append(one.item.id)
    return estimate("same choice", f"{PEOPLE} / {MACHINE}", same, clusters)


def shown_first_chosen(judged: Sequence[Judged]) -> Score:
    """Share of choices that fall on the reply shown as A: one half without a bias of people."""
    chosen, clusters = [], []
    for one in judged:
        for row in one.by_person.values():
            if row.order is not None and row.verdict in ("first", "second"):
                chosen.append(float(row.order[0] == ("first", "second").index(row.verdict)))
                clusters.append(one.item.id)
    return estimate("chose A", PEOPLE, chosen, clusters, proportion=True)


def confidence(judged: Sequence[Judged], items: Sequence[Item]) -> tuple[Score, Score]:
    """Mean probability of the machine's choice: (of judged pairs, of all pairs)."""

    def mean(pairs: Iterable[Item], subject: str) -> Score:
        sure = [max(p, 1 - p) for item in pairs if (p := item.p_first) is not None]
        return estimate("label's confidence", subject, sure, proportion=False)

    return mean((one.item for one in judged), "judged pairs"), mean(items, "all pairs")


# ---- ratings and wins ----


def win_rates(judged: Sequence[Judged]) -> list[Score]:
    """Per two subjects, the share of people's verdicts for the first; a tie is half a win."""
    wins: dict[tuple[str, ...], list[tuple[float, str]]] = {}
    for one in judged:
        if one.item.task != "pair" or not one.item.subjects:
            continue
        subjects = tuple(sorted(one.item.subjects))
        for row in one.by_person.values():
            value = _CHOICES[row.verdict]
            is_sorted = subjects == one.item.subjects
            wins.setdefault(subjects, []).append((value if is_sorted else 1 - value, one.item.id))
    return [
        estimate(f"win rate over {other}", first, *zip(*rows, strict=True), proportion=True)
        for (first, other), rows in sorted(wins.items())
    ]


def rating_counts(judged: Sequence[Judged]) -> dict[str, Counter[int]]:
    """Subject -> rating -> how often; the subject is "all" where none is known."""
    counts: dict[str, Counter[int]] = {}
    for one in judged:
        for row in one.by_person.values():
            for index, rating in enumerate(row.ratings):
                if rating is not None:
                    for subject in one.item.subjects_of(index):
                        counts.setdefault(subject, Counter())[rating] += 1
    return counts


def rating_scores(judged: Sequence[Judged], *, seed: int = 0) -> list[Score]:
    """Mean rating of each subject, and the ordinal alpha of people's ratings."""
    by_subject: dict[str, list[tuple[float, str]]] = {}
    units: list[list[int]] = []
    for one in judged:
        for index in range(len(one.item.replies)):
            unit = [
                rating
                for row in one.by_person.values()
                if row.ratings and (rating := row.ratings[index]) is not None
            ]
            units += [unit] if unit else []
            for subject in one.item.subjects_of(index):
                by_subject.setdefault(subject, []).extend((rating, one.item.id) for rating in unit)
    rows = [
        estimate("mean rating", subject, *zip(*rated, strict=True), proportion=False)
        for subject, rated in by_subject.items()
        if rated
    ]
    tables = coincidence_tables(units, RATINGS)
    alpha = agreement("alpha rating", PEOPLE, tables, ordinal_alpha, seed=seed)
    return [*rows, alpha] if alpha.n else rows
