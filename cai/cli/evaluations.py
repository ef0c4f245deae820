"""`cai eval --only NAME`: the evaluations by name, each of one model on one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cai.catalog.names import CHOICES, DESCRIBED, OPTIONS, is_described
from cai.cli.file_tools import FileToolOptions
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.catalog.task import EvaluationTask
    from cai.evals.replies import EvalConfig

COMPARING = {"elo": ("judge", "preset", "subject", "turns", "verdicts")}
"""Evaluation of several subjects -> its options: `--subject` takes the place of `--model`."""
EVALUATIONS = (*OPTIONS, *CHOICES, *COMPARING)
"""The evaluations by name. Each writes score rows to the output, and its items beside it."""


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
    extras: Mapping[str, str] = field(default_factory=dict)
    """Options of single evaluations that were given, such as `judge`, by name."""
    several: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The same of options that may be repeated."""

    @property
    def name(self) -> str:
        """The evaluation's name."""
        return self.options.text("only")

    def task(self) -> EvaluationTask:
        """What is asked for, of one model."""
        from cai.catalog.task import EvaluationTask

        return EvaluationTask(
            name=self.name,
            data=self.options.path("data"),
            config=self.config,
            constitution=self.constitution,
            seed=self.seed,
            rows_seed=self.seed,
            limit=self.limit,
            columns=self.columns,
            options=self.extras,
            allow_code=True,
        )


def required_options(only: str | None, options: Mapping[str, object]) -> dict[str, object]:
    """The options without which the evaluation `only` has nothing to work on."""
    optional = ("model", "data") if only in COMPARING else ()
    given = {key: value for key, value in options.items() if key not in optional or value}
    return {"only": only, **given}


def data_of(name: str) -> Path:
    """The data that an evaluation's YAML file names."""
    from cai.catalog.evaluation_file import load_evaluation

    return load_evaluation(Path(name)).data_path


def evaluate_file(name: str | None, job: EvaluationJob) -> None:
    """Run the evaluation of this name, or of this YAML file.

    Raises:
        UsageError: there is none, or an option is not one of its.
    """
    if not is_described(name) and name not in EVALUATIONS:
        known = ", ".join(EVALUATIONS)
        raise UsageError(
            f"--only {name}: no such evaluation; known: {known}, and YAML files of your evaluations"
        )
    accepted = DESCRIBED if is_described(name) else (OPTIONS | COMPARING).get(name or "", ())
    unused = sorted((job.extras.keys() | job.several.keys()) - set(accepted))
    if unused:
        raise UsageError(f"--{unused[0]}: the evaluation {name} has no such option")
    if name in COMPARING:
        from cai.cli.elo_evaluation import evaluate_elo

        evaluate_elo(job)
        return
    from cai.cli.model_evaluation import evaluate_model

    evaluate_model(job)
