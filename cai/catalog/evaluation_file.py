"""An evaluation described in a YAML file: data, a template, a grader and a metric.

Nothing of the file or of the data is executed: a template has `{column}` placeholders that are
filled in one pass, and patterns have a bounded cost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from cai.constitution.validation_errors import Key
from cai.constitution.yaml_source import Source, parse, read_yaml
from cai.errors import ConfigError, StoreError
from cai.evals.means import mean_over_prompts
from cai.graders.base import GradedItem
from cai.graders.one_value import VALUE
from cai.records import Chat, FrozenModel, Kind, Message, Prompt, Score, ScoredReply
from cai.rubric.patterns import compile_pattern

PLACEHOLDER = re.compile(r"\{(\w+)\}")
GRADERS = ("rubric", "regex", "contains", "classifier", "judge")
CHOICE_KEYS = ("options", "answer", "form")
REPLY_KEYS = ("grader", "metric", "threshold", "draws", "temperature", "max_tokens", "kind")


class GraderSettings(FrozenModel):
    """What gives a reply its value, from 0 to 1: exactly one of the first five."""

    rubric: str | None = None
    """A constitution by file or name; its rubric gives `measure`."""
    regex: str | None = None
    """1 if it matches in the reply, whatever the case."""
    contains: str | None = None
    """1 if the reply has this text, which may have placeholders, whatever the case."""
    classifier: str | None = None
    """A classifier's folder, or a file of words and /patterns/: its probability."""
    judge: str | None = None
    """A question about the reply: P(yes) of the model that --judge names."""
    measure: Literal["incorrect", "refused", "answered"] = "incorrect"

    @model_validator(mode="after")
    def _exactly_one(self) -> GraderSettings:
        given = [name for name in GRADERS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(GRADERS)}; given: {len(given)}")
        return self


class EvaluationSettings(FrozenModel):
    """The keys of the file."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    data: str = Field(min_length=1)
    """A file, seen from the folder of this one, or `hub:OWNER/NAME#SPLIT`."""
    shape: Literal["replies", "choices"] = "replies"
    """Whether replies are sampled and graded, or options chosen by their log-probabilities."""
    template: str = Field("{prompt}", min_length=1)
    """The prompt, with {COLUMN} for a column of the data."""
    system: str | None = None
    """A system turn before it, with placeholders too."""
    kind: Kind | None = None
    """Of all prompts; else the column `kind`, if there is one."""
    options: str | tuple[str, ...] | None = None
    """Of `choices`: texts with placeholders, or the column with a list of texts."""
    answer: str | None = None
    """Of `choices`: the column with the right option, as its text, letter or number from 0."""
    form: Literal["letters", "replies"] = "letters"
    """Of `choices`: whether the model names an option's letter, or each is scored as its reply."""
    grader: GraderSettings | None = None
    metric: Literal["mean", "share"] = "mean"
    """`share`: of the replies whose value is `threshold` or more."""
    threshold: float = Field(0.5, ge=0, le=1)
    draws: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _keys_of_the_shape(self) -> EvaluationSettings:
        needed = ("options", "answer") if self.shape == "choices" else ("grader",)
        others = CHOICE_KEYS if self.shape == "replies" else REPLY_KEYS
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"shape {self.shape}: the key {name!r} is missing")
        for name in sorted(self.model_fields_set):
            if name in others:
                raise ValueError(f"shape {self.shape} has no key {name!r}")
        return self


@dataclass(frozen=True)
class Described:
    """A checked file."""

    settings: EvaluationSettings
    source: Source

    @property
    def data_path(self) -> Path:
        """Where the data is."""
        name = self.settings.data
        return Path(name) if name.startswith("hub:") else self.source.path.parent / name

    def beside(self, name: str) -> str:
        """A file or folder that is named from the folder of this file, else the name itself."""
        path = self.source.path.parent / name
        return str(path) if path.exists() else name

    def sampling(self) -> dict[str, float]:
        """The settings of sampling that the file has."""
        given = self.settings.model_dump(include={"draws", "temperature", "max_tokens"})
        return {key: value for key, value in given.items() if value is not None}


def load_evaluation(path: Path) -> Described:
    """The file, checked.

    Raises:
        ConfigError: a line for each mistake, as `file:line: key: message`.
    """
    source = read_yaml(path)
    settings = parse(source, EvaluationSettings)
    if settings.grader is not None and settings.grader.regex is not None:
        compile_pattern(settings.grader.regex, f"{source.at(('grader', 'regex'))}: grader.regex")
    return Described(settings, source)


def described_items(
    described: Described, rows: Sequence[tuple[str, Mapping[str, Any]]], draws: int
) -> list[GradedItem]:
    """The items of the data's (location, row)s.

    Raises:
        StoreError: a row lacks a column that the file names.
        ConfigError: a filled template is empty.
    """
    settings = described.settings
    items: dict[str, GradedItem] = {}
    for location, row in rows:
        fields = {"kind": settings.kind or row.get("kind")}
        prompt = _prompt(fields | {"chat": filled_chat(described, location, row)}, location)
        facts = {}
        if settings.grader is not None and settings.grader.contains is not None:
            key = ("grader", "contains")
            facts["contains"] = filled(described, key, settings.grader.contains, (location, row))
        for draw in range(draws):
            item = GradedItem(prompt, prompt.chat, draw, facts=facts)
            items.setdefault(item.id, item)
    return list(items.values())


def filled_chat(described: Described, location: str, row: Mapping[str, Any]) -> Chat:
    """The template, after the system turn if there is one, with the row's columns.

    Raises:
        StoreError, ConfigError: as for `described_items`.
    """
    settings = described.settings
    text = filled(described, ("template",), settings.template, (location, row))
    if not text.strip():
        raise ConfigError(f"{described.source.at(('template',))}: template: empty at {location}")
    turns = [Message(role="user", content=text)]
    if settings.system is not None:
        system = filled(described, ("system",), settings.system, (location, row))
        turns.insert(0, Message(role="system", content=system))
    return tuple(turns)


def _prompt(fields: Mapping[str, Any], location: str) -> Prompt:
    from cai.store import parse_row

    return parse_row(fields, Prompt, location)


def filled(
    described: Described,
    key: Key,
    template: str,
    located: tuple[str, Mapping[str, Any]],
) -> str:
    """The template with the row's columns; braces inside a column stay text."""
    location, row = located

    def column(match: re.Match[str]) -> str:
        value = row.get(match[1])
        if value is None or isinstance(value, list | dict):
            known = ", ".join(name for name, cell in row.items() if cell is not None)
            raise StoreError(
                f"{location}: no text `{match[1]}`, which {described.source.at(key)}"
                f" ({'.'.join(map(str, key))}) names; its columns: {known}"
            )
        return str(value)

    return PLACEHOLDER.sub(column, template)


def described_scores(settings: EvaluationSettings, rows: Sequence[ScoredReply]) -> list[Score]:
    """`NAME.mean`, or `NAME.share` of replies with `threshold` or more."""
    metric = f"{settings.name}.{settings.metric}"
    if settings.metric == "mean":
        values = {row.values.get(VALUE) for row in rows}
        is_share = values <= {0.0, 1.0, None}
        return mean_over_prompts(metric, rows, VALUE, proportion=is_share)
    counted = [
        row.model_copy(update={"values": {VALUE: float(value >= settings.threshold)}})
        if (value := row.values.get(VALUE)) is not None
        else row
        for row in rows
    ]
    return mean_over_prompts(metric, counted, VALUE)
