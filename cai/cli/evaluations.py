"""`cai eval --only NAME`: the evaluations by name, each of one model on one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cai.cli.file_tools import FileToolOptions
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.evals.replies import EvalConfig


@dataclass(frozen=True)
class EvaluationJob:
    """What the command line says of one evaluation."""

    options: FileToolOptions
    """`only`, `model`, `data`, `output`, and the endpoint's options."""
    constitution: str
    """Its rubric grades replies."""
    config: EvalConfig
    """How replies are sampled."""
    columns: Mapping[str, str]
    """Field -> the column of the data that has it."""
    seed: int
    limit: int | None = None
    """Rows of the data that are used, drawn by the seed; None: all."""


def _refusal(job: EvaluationJob) -> None:
    from cai.cli.refusal_evaluation import evaluate_refusal

    evaluate_refusal(job)


def _choices(name: str) -> Callable[[EvaluationJob], None]:
    def evaluate(job: EvaluationJob) -> None:
        from cai.cli.choice_evaluation import evaluate_choices

        evaluate_choices(name, job)

    return evaluate


CHOICES = ("hhh", "bbq", "truthfulqa", "winogender", "crows-pairs", "likert", "calibration")
"""Evaluations by questions with options: the names in `cai.evals.suite`, which take time to import.
"""
EVALUATIONS: dict[str, Callable[[EvaluationJob], None]] = {
    "refusal": _refusal,
    **{name: _choices(name) for name in CHOICES},
}
"""Name -> what runs it. Each writes score rows to the output, and its items beside it."""


def evaluate_file(name: str | None, job: EvaluationJob) -> None:
    """Run the evaluation of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in EVALUATIONS:
        known = ", ".join(EVALUATIONS)
        raise UsageError(f"--only {name}: no such evaluation; known: {known}")
    EVALUATIONS[name](job)
