"""Boolean expressions as truth tables: probabilities, the proof of a partition, coverage gaps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cai.rubric.expression import Node, Table, assignment_columns, names_in, truth_column


@dataclass(frozen=True, slots=True)
class Formula:
    """An expression over base propositions as its truth table."""

    names: tuple[str, ...]
    table: bytes
    """One byte, 0 or 1, for each assignment; bit i of its index is the value of `names[i]`."""

    def probability(self, propositions: Mapping[str, float]) -> float:
        """P(the expression), with the propositions taken as independent.

        The sum, over the assignments that satisfy it, of the product of the probabilities.
        """
        row, uncertain = 0, []
        for bit, name in enumerate(self.names):
            p = propositions[name]
            if p == 1:
                row |= 1 << bit
            elif p != 0:
                uncertain.append((1 << bit, p))
        if not uncertain:
            return float(self.table[row])
        rows, weights = np.array([row]), np.ones(1)  # of the assignments that are possible
        for bit_value, p in uncertain:
            rows = np.concatenate([rows, rows | bit_value])
            weights = np.concatenate([weights * (1 - p), weights * p])
        return float(min(1.0, weights[np.frombuffer(self.table, dtype=np.bool_)[rows]].sum()))

    def satisfying_rows(self) -> list[int]:
        """Row numbers of the assignments that satisfy it."""
        table = np.frombuffer(self.table, dtype=np.bool_)
        return [int(row) for row in np.flatnonzero(table)]


@dataclass(frozen=True, slots=True)
class Partition:
    """Formulas of which exactly one holds, as one table.

    Grading looks the propositions up once, not once per formula.
    """

    formulas: tuple[Formula, ...]
    names: tuple[str, ...]
    table: bytes
    """For each assignment, the index of the formula that holds."""

    def most_probable(self, propositions: Mapping[str, float]) -> int:
        """The index of the most probable formula; of equally probable ones the last."""
        row = _certain_row(self.names, propositions)
        if row is not None:
            return self.table[row]
        return max(
            reversed(range(len(self.formulas))),
            key=lambda index: self.formulas[index].probability(propositions),
        )


def partition(formulas: Sequence[Formula]) -> Partition:
    """One table for formulas that are known to be exclusive and exhaustive."""
    names = tuple(sorted({name for formula in formulas for name in formula.names}))
    table = np.zeros(1 << len(names), dtype=np.uint8)
    for index, formula in enumerate(formulas):
        rows = np.zeros(1, dtype=np.uint32)  # of the formula, for each row of the whole table
        for name in names:
            bit = 1 << formula.names.index(name) if name in formula.names else 0
            rows = np.concatenate([rows, rows + np.uint32(bit)])
        table[np.frombuffer(formula.table, dtype=np.bool_)[rows]] = index
    return Partition(tuple(formulas), names, table.tobytes())


def _certain_row(names: Sequence[str], propositions: Mapping[str, float]) -> int | None:
    """The row of the assignment; None when one of the propositions is neither 0 nor 1."""
    row = 0
    for bit, name in enumerate(names):
        p = propositions[name]
        if p == 1:
            row |= 1 << bit
        elif p != 0:
            return None
    return row


@dataclass(frozen=True, slots=True)
class Definitions:
    """The names that expressions may use: base propositions, and expressions over them."""

    base: frozenset[str]
    derived: Mapping[str, Node]
    """In an order in which each uses base propositions and those before it only."""

    def defines(self, node: Node) -> bool:
        return names_in(node) <= self.base | self.derived.keys()

    def base_names(self, nodes: Iterable[Node]) -> tuple[str, ...]:
        """The base propositions that the expressions depend on, in alphabetical order."""
        visited: set[str] = set()
        pending = set().union(*map(names_in, nodes))
        while pending:
            id = pending.pop()
            if id not in visited:
                visited.add(id)
                if id in self.derived:
                    pending |= names_in(self.derived[id])
        return tuple(sorted(visited & self.base))

    def tables(self, nodes: Iterable[Node], order: tuple[str, ...]) -> list[Table]:
        """The truth table of each expression over the base propositions `order`."""
        columns = assignment_columns(order)
        for id, node in self.derived.items():
            if names_in(node) <= columns.keys():
                columns[id] = truth_column(node, columns)
        return [truth_column(node, columns) for node in nodes]


def partition_errors(tables: Mapping[str, Table], order: Sequence[str], what: str) -> Iterator[str]:
    """Counterexamples to "exactly one of the expressions holds"; none for a partition.

    At most two: the first assignment under which no expression holds, and the first under which
    two do. `what` is a class or a degree.
    """
    count = np.sum(list(tables.values()), axis=0)
    if (count == 0).any():
        yield f"no {what} when {_assignment_text(int((count == 0).argmax()), order)}"
    if (count > 1).any():
        row = int((count > 1).argmax())
        both = " and ".join(name for name, table in tables.items() if table[row])
        yield f"{both} hold at once when {_assignment_text(row, order)}"


def _assignment_text(row: int, order: Sequence[str]) -> str:
    return ", ".join(name if row >> bit & 1 else f"not {name}" for bit, name in enumerate(order))


def coverage_gaps(
    best: Mapping[str, Formula],
    names: Mapping[str, str],
    answering: str | None,
    complete: Formula | None,
) -> Iterator[str]:
    """Best classes that accept more than they should, though the classes are a partition.

    Args:
        best: behaviour -> its best class, called `names[behaviour]`.
        answering: the behaviour that harmless prompts deserve.
        complete: when a reply complies in full.

    Returns:
        One line for each gap, which begins with the key of the class.
    """
    if answering and complete:
        counterexample = _satisfies_only(best[answering], complete)
        if counterexample is not None:
            key = f"rubric.classes.{answering}.{names[answering]}"
            yield (
                f"{key}: the best answer need not comply in full: it holds when {counterexample}"
            )
    for behaviour, formula in best.items():
        others = [_excluded(other) for name, other in best.items() if name != behaviour]
        if len(others) < 2:
            continue
        unmentioned = sorted(set.intersection(*others) - set(formula.names))
        if unmentioned:
            key = f"rubric.classes.{behaviour}.{names[behaviour]}"
            yield (
                f"{key}: says nothing of {', '.join(unmentioned)}, "
                "which all other best classes exclude"
            )


def _excluded(formula: Formula) -> set[str]:
    """The propositions that are false in every assignment which satisfies the formula."""
    rows = np.array(formula.satisfying_rows(), dtype=np.int64)
    return {name for bit, name in enumerate(formula.names) if not (rows >> bit & 1).any()}


def _satisfies_only(formula: Formula, other: Formula) -> str | None:
    """An assignment, in words, that satisfies `formula` and not `other`; None: there is none."""
    free_names = [name for name in other.names if name not in formula.names]
    visited = set()
    for row in formula.satisfying_rows():
        given = {name: row >> bit & 1 for bit, name in enumerate(formula.names)}
        shared = tuple(given[name] for name in other.names if name in given)
        if shared in visited:  # names that only one of the two uses make no difference
            continue
        visited.add(shared)
        for free_row in range(1 << len(free_names)):
            values = given | {name: free_row >> bit & 1 for bit, name in enumerate(free_names)}
            other_row = sum(values[name] << bit for bit, name in enumerate(other.names))
            if not other.table[other_row]:
                return ", ".join(
                    name if value else f"not {name}"
                    for name, value in values.items()
                    if value or name in other.names
                )
    return None
