"""Content of the report's sections, loaded from the files of a run folder."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from cai.artifacts import EVALUATION_SCORES
from cai.errors import StoreError
from cai.records import Kind, Prompt, Revision, Score
from cai.report import table
from cai.store import Manifest, json_lines, read_rows

T = TypeVar("T")
U = TypeVar("U")

MANIFEST = ".manifest.json"
_SUMMARY_KEYS = re.compile(r"constitution|model|seed|fingerprint|author|critic|judge|subject")


@dataclass(frozen=True)
class Section(Generic[T]):
    """A section's content, or the reason why there is none."""

    content: T | None
    missing: str = ""

    def then(self, convert: Callable[[T], U | None], missing: str) -> Section[U]:
        """A section of the converted content.

        Args:
            missing: the reason given when the content, or what it is converted to, is empty.
        """
        if self.content is None:
            return Section(None, self.missing)
        converted = convert(self.content) if self.content else None
        return Section(converted) if converted else Section(None, missing)


@dataclass(frozen=True)
class RunFiles:
    """The files of a run folder, some of which may not be written yet."""

    folder: Path

    def section(self, name: str, stage: str, load: Callable[[Path], T]) -> Section[T]:
        """A section made of the file `name`, which stage `stage` writes."""
        path = self.folder / name
        if path.exists():
            return Section(load(path))
        return Section(None, f"{name} is not there yet: `cai {stage}` writes it.")


@dataclass(frozen=True)
class Stage:
    """A stage's manifest."""

    artefact: str
    manifest: Manifest


def read_stage(path: Path) -> Stage:
    """The stage whose manifest is `path`.

    Raises:
        StoreError: not a manifest of this version.
    """
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError:
        raise StoreError(
            f"{path}: not a manifest of this version of cai; "
            "move it away to make the report without it"
        ) from None
    return Stage(path.name.removesuffix(MANIFEST), manifest)


def settings_summary(stages: Sequence[Stage]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """(key, [(value, stages)]) of the main settings: constitution, models, seeds."""
    values: dict[str, dict[str, list[str]]] = {}
    for stage in stages:
        manifest = stage.manifest
        for key, value in [*manifest.provenance.items(), *manifest.counts.items()]:
            if _SUMMARY_KEYS.search(key) and isinstance(value, str):
                values.setdefault(key, {}).setdefault(value, []).append(manifest.stage)
    return [(key, list(values[key].items())) for key in sorted(values)]


def kinds_of_prompts(path: Path) -> dict[str, Kind | None]:
    """Prompt id -> kind; empty when the file does not exist."""
    return {prompt.id: prompt.kind for prompt in read_rows(path, Prompt)} if path.exists() else {}


def ppo_updates(path: Path) -> list[Mapping[str, Any]]:
    """The metrics of every update of PPO.

    Raises:
        StoreError: a row without an integer `step`.
    """
    rows: list[Mapping[str, Any]] = []
    for line, row in json_lines(path):
        if not isinstance(row.get("update"), int):
            raise StoreError(f"{path}:{line}: step: expected the number of the update")
        rows.append(row)
    return rows


def read_metrics(path: Path) -> list[tuple[str, object]]:
    """The preference model's metrics, flattened.

    Raises:
        StoreError: not a file of metrics.
    """
    try:
        return list(flat_metrics(json.loads(path.read_text(encoding="utf-8"))))
    except (ValueError, RecursionError):
        raise StoreError(
            f"{path}: cannot be read as metrics; delete it and run `cai reward` again"
        ) from None


def flat_metrics(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """(dotted name, value) of nested JSON; a score becomes one line with its interval."""
    if isinstance(value, dict):
        if {"metric", "mean", "n"} <= value.keys():
            score = Score.model_validate(value)
            yield score.metric, table.cell(score)
        else:
            for key, inner in value.items():
                yield from flat_metrics(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from flat_metrics(inner, f"{name}[{index}]")
    else:
        yield name, value


def read_scores(path: Path) -> list[Score]:
    """The scores of a run's replies, in `path`, and those of its other evaluations beside it."""
    others = path.with_name(EVALUATION_SCORES)
    scores = list(read_rows(path, Score))
    return scores + (list(read_rows(others, Score)) if others.exists() else [])


def headline(scores: Iterable[Score]) -> tuple[list[str], list[tuple[str, list[str]]]] | None:
    """`table.rows`, or None when they have no subject."""
    subjects, lines = table.headline_rows(scores)
    return (subjects, lines) if subjects else None


@dataclass(frozen=True)
class FilterCounts:
    """Numbers of revisions that passed the filters and were dropped."""

    total: int
    kept: int
    dropped: list[tuple[str, int]]
    """(reason, rows); the most frequent first."""


def filter_counts(rows: Iterable[Revision]) -> FilterCounts:
    """Count the revisions in `rows` by why they were dropped."""
    reasons = Counter(row.dropped for row in rows)
    kept = reasons.pop(None, 0)
    dropped = [(reason, count) for reason, count in reasons.most_common() if reason is not None]
    return FilterCounts(kept + sum(count for _, count in dropped), kept, dropped)
