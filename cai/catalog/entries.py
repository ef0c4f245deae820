"""Evaluations as entries of a list in YAML: that of a run, or of a file of them alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from cai.catalog.evaluation_file import load_evaluation
from cai.catalog.names import (
    CHOICES,
    COLUMN_FIELDS,
    DESCRIBED,
    GRADED_BY_RUBRIC,
    OPTIONS,
    REQUIRED,
    SAMPLING,
    WITH_COLUMNS,
    is_described,
)
from cai.catalog.task import EvaluationTask
from cai.constitution.yaml_source import parse, read_yaml
from cai.data.readers import KNOWN
from cai.evals.replies import EvalConfig
from cai.records import FrozenModel, Score

HUB = "hub:"
FILES = ("preference", "guideline", "scorer", "templates", "systems", "train")
"""Options that name a file or a folder."""
LABEL = r"^[a-z0-9][a-z0-9_-]*$"
SAMPLED = ("draws", "temperature", "max_tokens")


class EvaluationOptions(FrozenModel):
    """What one evaluation needs besides its data: the options of `cai eval --only` of these names.
    Files are seen from the list's own.
    """

    preference: str | None = None
    """harm: a run's folder, or that of a preference model."""
    guard: str | None = None
    """refusal, and harm in place of `preference`: a guard model, as local:FOLDER_OR_HUB_ID, or
    local:FOLDER#LABEL of a classifier."""
    guideline: str | None = None
    """A file with the rule that the guard's chat template takes."""
    scorer: str | None = None
    """toxicity: a file of words and /patterns/, or a classifier's folder[#LABEL]."""
    judge: str | None = None
    """truthfulqa-open, and a file of your own: a model that maps or judges answers."""
    reference: str | None = None
    """helpfulness: a local model that measures relevance."""
    templates: str | None = None
    """jailbreak: a file or folder."""
    systems: str | None = None
    """jailbreak: system turns, like templates."""
    constitution: str | None = None
    """Evaluations graded by a rubric: whose, by file or shipped name."""
    train: str | None = None
    """Evaluations of replies: a run's folder or a file of prompts, to split the scores by overlap.
    """

    def given(self) -> dict[str, str]:
        """Name -> value of those that are given."""
        return {key: value for key, value in self.model_dump().items() if value is not None}


class EvaluationEntry(FrozenModel):
    """One evaluation of a list."""

    name: str
    """An evaluation of `cai eval --only`, or the YAML file that describes one."""
    label: str | None = Field(None, pattern=LABEL)
    """Names its files, and begins its metrics: with it, an evaluation can be there several times.
    """
    data: str | None = Field(None, min_length=1)
    """A file, or a folder of files, relative to the list's own file. A YAML file names its own."""
    limit: int | None = Field(None, ge=1)
    """Rows of the data that are used, the same ones whatever the seed; None: all."""
    columns: dict[str, str] = {}
    """Field -> the column of the data that has it, as with `--column`."""
    draws: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=1)
    uses: EvaluationOptions = EvaluationOptions()

    @property
    def title(self) -> str:
        """The label, or the name without the folder and the ending of a file."""
        return self.label or (Path(self.name).stem if is_described(self.name) else self.name)

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if not is_described(name) and name not in (*OPTIONS, *CHOICES):
            known = ", ".join((*OPTIONS, *CHOICES))
            raise ValueError(f"no such evaluation; known: {known}, and YAML files of your own")
        return name

    @field_validator("columns")
    @classmethod
    def _fields_are_known(cls, columns: dict[str, str]) -> dict[str, str]:
        fields = sorted(KNOWN.union(COLUMN_FIELDS))
        for field in columns:
            if field not in fields:
                raise ValueError(f"{field} is no field; they are {', '.join(fields)}")
        return columns

    @model_validator(mode="after")
    def _fits_the_evaluation(self) -> EvaluationEntry:
        name, options = self.name, self.uses.given()
        if not re.fullmatch(LABEL, self.title):
            raise ValueError(f"{self.title} is no name for files: give a `label`")
        if self.data is None and not is_described(name):
            raise ValueError(f"{name}: the key 'data' is missing")
        accepted = DESCRIBED if is_described(name) else OPTIONS.get(name, ())
        if name in GRADED_BY_RUBRIC:
            accepted = (*accepted, "constitution")
        for option in options:
            if option not in accepted:
                raise ValueError(f"the evaluation {name} uses no {option}")
        needed = REQUIRED.get(name, ())
        if needed and not options.keys() & set(needed):
            raise ValueError(f"{name} needs a {' or a '.join(needed)}: give it below `uses`")
        if {"preference", "guard"} <= options.keys():
            raise ValueError("harm: give a preference or a guard below `uses`, not both")
        if "guideline" in options and "guard" not in options:
            raise ValueError("guideline is a rule for a guard: give a guard below `uses`")
        sampling = [key for key in SAMPLED if getattr(self, key) is not None]
        if sampling and name in CHOICES:
            raise ValueError(f"{name} samples nothing: leave {sampling[0]} out")
        if self.columns and name in set(CHOICES).difference(WITH_COLUMNS):
            raise ValueError(f"{name} reads the columns of its own format: leave columns out")
        return self

    def seen_from(self, folder: Path) -> EvaluationEntry:
        """The entry with its files as they are named from elsewhere.

        Args:
            folder: that of the list's file.
        """
        uses = {
            key: str(folder / Path(value).expanduser())
            for key, value in self.uses.given().items()
            if key in FILES
        }
        constitution = self.uses.constitution
        if constitution is not None and (folder / constitution).exists():
            uses["constitution"] = str(folder / constitution)
        data = self.data
        if data is not None and not data.startswith(HUB):
            data = str(folder / Path(data).expanduser())
        name = str(folder / self.name) if is_described(self.name) else self.name
        return self.model_copy(
            update={
                "name": name,
                "label": self.label,
                "data": data,
                "uses": self.uses.model_copy(update=uses),
            }
        )

    def task(self, *, constitution: str, seed: int, rows_seed: int) -> EvaluationTask:
        """What is asked for.

        Args:
            constitution: whose rubric grades replies, unless the entry names another.
            seed: of sampling.
            rows_seed: of the rows that `limit` leaves.

        Raises:
            UsageError: the YAML file of an evaluation is wrong.
        """
        options = self.uses.given()
        rubric = options.pop("constitution", constitution)
        data = Path(self.data) if self.data else load_evaluation(Path(self.name)).data_path
        return EvaluationTask(
            name=self.name,
            data=data,
            config=sampling(self.name, self.model_dump(include=set(SAMPLED))),
            constitution=rubric,
            seed=seed,
            rows_seed=rows_seed,
            limit=self.limit,
            columns=self.columns,
            options=options,
        )

    def labelled(self, scores: Sequence[Score]) -> list[Score]:
        """The scores, with the label before their metrics."""
        if self.label is None:
            return list(scores)
        return [
            score.model_copy(update={"metric": f"{self.label}.{score.metric}"}) for score in scores
        ]


def sampling(name: str, given: Mapping[str, float | None]) -> EvalConfig:
    """How replies are sampled: as given, else as the evaluation's source says, else by default."""
    preset = dict(SAMPLING.get(name, {}))
    if is_described(name):
        preset |= load_evaluation(Path(name)).sampling()
    return EvalConfig.model_validate(
        preset | {key: value for key, value in given.items() if value is not None}
    )


def refuse_repeated(entries: Sequence[EvaluationEntry]) -> None:
    """Nothing, if no two entries would have the same files.

    Raises:
        ValueError: they would; for the checks of settings.
    """
    titles = [entry.title for entry in entries]
    for title in titles:
        if titles.count(title) > 1:
            raise ValueError(f"{title} is there twice: give each a `label`")


class Suite(FrozenModel):
    """A file of evaluations: the list that a run's YAML has under the same key."""

    evaluations: tuple[EvaluationEntry, ...] = Field(min_length=1)

    @field_validator("evaluations")
    @classmethod
    def _have_distinct_files(
        cls, evaluations: tuple[EvaluationEntry, ...]
    ) -> tuple[EvaluationEntry, ...]:
        refuse_repeated(evaluations)
        for entry in evaluations:
            if entry.title == SUITE_SCORES:
                raise ValueError(f"{entry.title} is the name of the scores of all: give a `label`")
        return evaluations


SUITE_SCORES = "scores"
"""The file of all scores, in the folder of a suite's results; no entry has this name."""


def load_suite(path: Path) -> tuple[EvaluationEntry, ...]:
    """The entries of a file, with their files as they are named from the working directory.

    Raises:
        ConfigError: one line for each mistake, as file:line.
    """
    suite = parse(read_yaml(path), Suite)
    return tuple(entry.seen_from(path.parent) for entry in suite.evaluations)
