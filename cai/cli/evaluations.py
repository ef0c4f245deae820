"""`cai eval --only NAME`: the evaluations by name, each of one model on one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
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
    extras: Mapping[str, str] = field(default_factory=dict)
    """Options of single evaluations that were given, such as `judge`, by name."""
    several: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The same of options that may be repeated."""

    @property
    def name(self) -> str:
        """The evaluation's name."""
        return self.options.text("only")

    def needed(self, option: str) -> str:
        """The value of an option that this evaluation cannot do without.

        Raises:
            UsageError: it was not given.
        """
        if option not in self.extras:
            raise self.lacking(option)
        return self.extras[option]

    def lacking(self, option: str) -> UsageError:
        """The error of an option that this evaluation cannot do without."""
        return UsageError(f"--only {self.name}: give --{option}")


def _refusal(job: EvaluationJob) -> None:
    from cai.cli.refusal_evaluation import evaluate_refusal

    evaluate_refusal(job)


def _replies(name: str) -> Callable[[EvaluationJob], None]:
    def evaluate(job: EvaluationJob) -> None:
        from cai.cli.reply_evaluation import evaluate_replies
        from cai.cli.reply_evaluations import BUILDS

        evaluate_replies(job, BUILDS[name])

    return evaluate


def _choices(name: str) -> Callable[[EvaluationJob], None]:
    def evaluate(job: EvaluationJob) -> None:
        from cai.cli.choice_evaluation import evaluate_choices

        evaluate_choices(name, job)

    return evaluate


def _elo(job: EvaluationJob) -> None:
    from cai.cli.elo_evaluation import evaluate_elo

    evaluate_elo(job)


def _described(job: EvaluationJob) -> None:
    from cai.cli.evaluation_files import evaluate_described

    evaluate_described(job)


OPTIONS = {
    "refusal": ("guard", "guideline", "train"),
    "harm": ("preference", "guard", "guideline", "train"),
    "toxicity": ("scorer", "train"),
    "truthfulqa-open": ("judge", "train"),
    "jailbreak": ("templates", "systems", "train"),
    "helpfulness": ("reference", "train"),
    "closed-domain": ("train",),
}
"""Evaluation of replies -> the options that it has for itself."""
COMPARING = {"elo": ("judge", "preset", "subject", "turns", "verdicts")}
"""The same of an evaluation of several subjects: `--subject` takes the place of `--model`."""
DESCRIBED = ("judge", "train")
"""The same of an evaluation that a YAML file describes."""
SAMPLING: dict[str, dict[str, float]] = {
    "harm": {"draws": 5, "temperature": 1.0},
    "toxicity": {"temperature": 1.0},
}
"""Evaluation -> settings of its source, where they are not those of `EvalConfig`."""
CHOICES = ("hhh", "bbq", "truthfulqa", "winogender", "crows-pairs", "likert", "calibration")
"""Evaluations by questions with options: the names in `cai.evals.suite`, which take time to import.
"""
EVALUATIONS: dict[str, Callable[[EvaluationJob], None]] = {
    "refusal": _refusal,
    **{name: _replies(name) for name in OPTIONS if name != "refusal"},
    **{name: _choices(name) for name in CHOICES},
    "elo": _elo,
}
"""Name -> what runs it. Each writes score rows to the output, and its items beside it."""


def required_options(only: str | None, options: Mapping[str, object]) -> dict[str, object]:
    """The options without which the evaluation `only` has nothing to work on."""
    optional = ("model", "data") if only in COMPARING else ()
    given = {key: value for key, value in options.items() if key not in optional or value}
    return {"only": only, **given}


def is_described(name: str | None) -> bool:
    """Whether an evaluation is named by the YAML file that describes it."""
    return name is not None and Path(name).suffix in (".yaml", ".yml")


def data_of(name: str) -> Path:
    """The data that an evaluation's YAML file names."""
    from cai.evals.evaluation_file import load_evaluation

    return load_evaluation(Path(name)).data_path


def sampling(name: str | None, given: Mapping[str, float | None]) -> EvalConfig:
    """How replies are sampled: as given, else as the evaluation's source says, else by default."""
    from cai.evals.replies import EvalConfig

    preset = dict(SAMPLING.get(name or "", {}))
    if name is not None and is_described(name):
        from cai.evals.evaluation_file import load_evaluation

        preset |= load_evaluation(Path(name)).sampling()
    return EvalConfig.model_validate(
        preset | {key: value for key, value in given.items() if value is not None}
    )


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
    options = OPTIONS | COMPARING
    accepted = DESCRIBED if is_described(name) else options.get(name or "", ())
    unused = sorted((job.extras.keys() | job.several.keys()) - set(accepted))
    if unused:
        raise UsageError(f"--{unused[0]}: the evaluation {name} has no such option")
    (_described if is_described(name) else EVALUATIONS[name or ""])(job)
