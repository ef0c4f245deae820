"""`cai eval --only NAME`: the evaluations by name, each of one model on one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cai.cli.file_tools import FileToolOptions
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.evals.replies import EvalConfig


@dataclass(frozen=True)
class ComparisonOptions:
    """Options of comparisons of several subjects, as they were given."""

    subjects: Sequence[str] = ()
    """NAME=SPEC"""
    turns: Sequence[str] = ()
    """NAME=FILE"""
    judge: str | None = None
    preset: str | None = None
    verdicts: Path | None = None
    """Verdicts of people."""

    def by_name(self) -> dict[str, object]:
        """Name of each option -> its value; None where it was not given."""
        return {
            "subject": self.subjects or None,
            "turns": self.turns or None,
            "judge": self.judge,
            "preset": self.preset,
            "verdicts": self.verdicts,
        }


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
    comparison: ComparisonOptions = ComparisonOptions()


def _refusal(job: EvaluationJob) -> None:
    from cai.cli.refusal_evaluation import evaluate_refusal

    evaluate_refusal(job.options, job.constitution, job.config, dict(job.columns), job.seed)


def _elo(job: EvaluationJob) -> None:
    from cai.cli.elo_evaluation import evaluate_elo

    evaluate_elo(job)


EVALUATIONS: dict[str, Callable[[EvaluationJob], None]] = {"refusal": _refusal, "elo": _elo}
"""Name -> what runs it. Each writes score rows to the output, and its items beside it."""

COMPARING = ("elo",)
"""Evaluations of several subjects, by `--subject` instead of `--model`."""


def required_options(only: str | None, options: Mapping[str, object]) -> dict[str, object]:
    """The options without which the evaluation `only` has nothing to work on."""
    optional = ("model", "data") if only in COMPARING else ()
    given = {key: value for key, value in options.items() if key not in optional or value}
    return {"only": only, **given}


def evaluate_file(name: str | None, job: EvaluationJob) -> None:
    """Run the evaluation of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in EVALUATIONS:
        known = ", ".join(EVALUATIONS)
        raise UsageError(f"--only {name}: no such evaluation; known: {known}")
    given = [f"--{key}" for key, value in job.comparison.by_name().items() if value is not None]
    if name not in COMPARING and given:
        raise UsageError(f"--only {name}: {', '.join(given)}: only with --only elo")
    EVALUATIONS[name](job)
