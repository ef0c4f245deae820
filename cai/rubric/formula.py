"""A boolean expression as its truth table: probabilities of it, and what it leaves open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        row, certain = 0, True
        for bit, name in enumerate(self.names):
            p = propositions[name]
            if p == 1:
                row |= 1 << bit
            elif p != 0:
                certain = False
        if certain:
            return float(self.table[row])
        weights = np.ones(1)
        for name in self.names:
            p = propositions[name]
            weights = np.concatenate([weights * (1 - p), weights * p])
        return float(min(1.0, weights[np.frombuffer(self.table, dtype=np.bool_)].sum()))

    def rows(self) -> list[int]:
        """The assignments that satisfy it."""
        return [int(row) for row in np.flatnonzero(np.frombuffer(self.table, dtype=np.bool_))]


def holes(
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
