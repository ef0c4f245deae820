"""One evaluation of one model: what is asked for, and what it is once its data is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cai.errors import UsageError
from cai.evals.replies import EvalConfig
from cai.lm.base import LM
from cai.records import Row, Score


@dataclass(frozen=True)
class EvaluationTask:
    """What an evaluation is given, from a command's options or from an entry of a file."""

    name: str
    """One of `cai.catalog.names`, or the YAML file that describes it."""
    data: Path
    config: EvalConfig
    """How replies are sampled."""
    constitution: str
    """Its rubric grades replies."""
    seed: int
    """Of sampling."""
    rows_seed: int
    """Of the rows that `limit` leaves."""
    limit: int | None = None
    """Rows of the data that are used; None: all."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field -> the column of the data that has it."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of single evaluations, such as `judge`, by name."""
    allow_code: bool = False
    """Whether a scorer may be a Python function."""

    def needed(self, option: str) -> str:
        """The value of an option that this evaluation cannot do without.

        Raises:
            UsageError: it was not given.
        """
        if option not in self.options:
            raise self.lacking(option)
        return self.options[option]

    def lacking(self, option: str) -> UsageError:
        """The error of an option that this evaluation cannot do without."""
        return UsageError(f"--only {self.name}: give --{option}")


@dataclass(frozen=True)
class PreparedEvaluation:
    """An evaluation whose data is read and whose grader is open; it asks any model."""

    items: Sequence[Any]
    """What is asked; each has an `id`."""
    kind: type[Row]
    """The type of the rows."""
    step: Callable[[str, LM], Callable[[Any], Awaitable[Any]]]
    """(subject, model) -> what makes the row of an item."""
    scores: Callable[[Sequence[Any]], list[Score]]
    """The metrics of the rows."""
    provenance: Mapping[str, str]
    """What decides the rows, besides the models."""
    source: Callable[[Any], str] = lambda row: str(row.source)
    """Id of the item that a row is about."""
    remarks: tuple[str, ...] = ()
    """Lines for the user about the data."""
