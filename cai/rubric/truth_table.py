"""A boolean expression as its truth table: probabilities of it, and what it leaves open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Formula:
    """An expression over base propositions as its truth table."""

    names: tuple[str, ...]
    table: bytes
    """One byte, 0 or 1, for each assignment; bit i of its index is the value of `names[i]`."""

    def probability(self, propositions: Mapping[str, float]) -> float:
        """Sum, over the assignments that satisfy it, of the product of the propositions' probabilities (taken as independent)."""
        row = _row(self.names, propositions)
        if row is not None:
            return float(self.table[row])
        weights = np.ones(1)
        for name in self.names:
            p = propositions[name]
            weights = np.concatenate([weights * (1 - p), weights * p])
        return float(min(1.0, weights[np.frombuffer(self.table, dtype=np.bool_)].sum()))

    def rows(self) -> list[int]:
        """The assignments that satisfy it."""
        return [int(row) for row in np.flatnonzero(np.frombuffer(self.table, dtype=np.bool_))]


@dataclass(frozen=True, slots=True)
class Partition:
    """Formulas of which exactly one holds, as one table: grading reads the propositions once, not once a formula."""

    formulas: tuple[Formula, ...]
    names: tuple[str, ...]
    table: bytes
    """For each assignment, which of the formulas holds."""

    def most_probable(self, propositions: Mapping[str, float]) -> int:
        """Which formula; of two equally probable ones the later."""
        row = _row(self.names, propositions)
        if row is not None:
            return self.table[row]
        return max(reversed(range(len(self.formulas))), key=lambda at: self.formulas[at].probability(propositions))


def partition(formulas: Sequence[Formula]) -> Partition:
    """Of formulas that are known to exclude each other and to leave nothing out."""
    names = tuple(sorted({name for formula in formulas for name in formula.names}))
    rows, place = np.arange(1 << len(names)), {name: bit for bit, name in enumerate(names)}
    table = np.zeros(len(rows), dtype=np.uint8)
    for at, formula in enumerate(formulas):
        own = np.zeros_like(rows)
        for bit, name in enumerate(formula.names):
            own |= (rows >> place[name] & 1) << bit
        table[np.frombuffer(formula.table, dtype=np.bool_)[own]] = at
    return Partition(tuple(formulas), names, table.tobytes())


def _row(names: Sequence[str], propositions: Mapping[str, float]) -> int | None:
    """The assignment's place in a truth table over `names`; None: one of the propositions is not certain."""
    row = 0
    for bit, name in enumerate(names):
        p = propositions[name]
        if p == 1:
            row |= 1 << bit
        elif p != 0:
            return None
    return row


def coverage_gaps(
    best: Mapping[str, Formula], names: Mapping[str, str], answering: str | None, complete: Formula | None
) -> Iterator[str]:
    """Best classes that let through what they should not, though the classes are a partition: a line for each.

    Args:
        best: behaviour -> its best class, called `names[behaviour]`.
        answering: the behaviour that harmless prompts deserve.
        complete: when a reply complies in full.
    """
    if answering and complete and (told := _beside(best[answering], complete)):
        key = f"rubric.classes.{answering}.{names[answering]}"
        yield f"{key}: the best answer need not comply in full: it holds when {told}"
    for behaviour, formula in best.items():
        others = [_excluded(other) for name, other in best.items() if name != behaviour]
        if len(others) >= 2 and (free := sorted(set.intersection(*others) - set(formula.names))):
            key = f"rubric.classes.{behaviour}.{names[behaviour]}"
            yield f"{key}: says nothing of {', '.join(free)}, which all other best classes exclude"


def _excluded(formula: Formula) -> set[str]:
    """The propositions that are false in every assignment which satisfies the formula."""
    rows = np.array(formula.rows(), dtype=np.int64)
    return {name for bit, name in enumerate(formula.names) if not (rows >> bit & 1).any()}


def _beside(formula: Formula, other: Formula) -> str | None:
    """An assignment, in words, that satisfies `formula` and not `other`; None: there is none."""
    left_open = [name for name in other.names if name not in formula.names]
    seen = set()
    for row in formula.rows():
        given = {name: row >> bit & 1 for bit, name in enumerate(formula.names)}
        shared = tuple(given[name] for name in other.names if name in given)
        if shared in seen:  # only those names that both know can make a difference
            continue
        seen.add(shared)
        for rest in range(1 << len(left_open)):
            holds = given | {name: rest >> bit & 1 for bit, name in enumerate(left_open)}
            if not other.table[sum(holds[name] << bit for bit, name in enumerate(other.names))]:
                return ", ".join(
                    name if value else f"not {name}" for name, value in holds.items() if value or name in other.names
                )
    return None
