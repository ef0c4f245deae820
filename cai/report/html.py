"""One page that shows a run: what was done, how far it moved the model, and what the texts look like.

Made from the files of the run folder alone, with no model and no network; a file that is not there yet is named in its
section. The page loads nothing: style and plots are inside it, there is no script, and a content policy says so to the browser.
Texts of models and users are escaped by jinja2; they are data to the template, never template.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from pydantic import ValidationError

from cai.artifacts import (
    METRICS,
    POLICY,
    PREFERENCES,
    PROMPTS,
    REPLIES,
    REPORT,
    REVISIONS,
    REWARD,
    SCORES,
)
from cai.errors import StoreError
from cai.records import EvalReply, Kind, Preference, Prompt, Revision, Score
from cai.report import examples, labels, plots, table
from cai.store import Manifest, atomic_write, json_lines, read

T = TypeVar("T")
U = TypeVar("U")

PER_KIND = 3
"""Examples of each kind of prompt."""
SHOWN = 600
"""Characters of a text that are shown at once; the whole text is one click away."""
MANIFEST = ".manifest.json"

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")
_GLANCE = re.compile(r"constitution|model|seed|fingerprint|author|critic|judge|subject")


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into the run folder, whole or not at all, and return its path.

    Raises:
        StoreError: the folder is missing, or one of its files is torn (names file and line).
    """
    path = run_dir / REPORT
    atomic_write(path, render(run_dir))
    return path


def render(run_dir: Path) -> str:
    """The report as one self-contained HTML page. The same files give the same bytes.

    Raises:
        StoreError: as `write_report`.
    """
    if not run_dir.is_dir():
        raise StoreError(f"{run_dir}: no such run folder; `cai run` makes one")

    def part(name: str, stage: str, load: Callable[[Path], T]) -> Section[T]:
        path = run_dir / name
        return (
            Section(load(path))
            if path.exists()
            else Section(None, f"{name} is not there yet: `cai {stage}` writes it.")
        )

    scores = part(SCORES, "eval", lambda path: list(read(path, Score)))
    updates = part(f"{POLICY}/{METRICS}", "ppo", _updates)
    kinds = _kinds(run_dir / PROMPTS)
    stages = [_stage(path) for path in sorted(run_dir.glob(f"*{MANIFEST}"))]
    return _template().render(
        run=run_dir.resolve().name,
        stages=stages,
        glance=_glance(stages),
        headline=scores.then(_headline, f"{SCORES} holds no row of the refusal evaluation."),
        changes=scores.then(
            table.changes, "No two of base, sft and policy were evaluated on the same prompts."
        ),
        scores=scores.then(list, f"{SCORES} is empty."),
        curves=updates.then(
            lambda rows: Markup(plots.ppo_curves(rows)), "No update of PPO is finished yet."
        ),  # noqa: S704
        last=updates.then(lambda rows: list(_flat(rows[-1])), "No update of PPO is finished yet."),
        styles=scores.then(_styles, f"{SCORES} holds no style shares."),
        labels=part(PREFERENCES, "label", lambda path: labels.diagnose(read(path, Preference))),
        reward=part(f"{REWARD}/metrics.json", "reward", _metrics),
        gate=part(REVISIONS, "revise", lambda path: _gate(read(path, Revision))),
        revisions=part(
            REVISIONS,
            "revise",
            lambda path: examples.first_revisions(read(path, Revision), kinds, PER_KIND),
        ),
        replies=part(
            REPLIES, "eval", lambda path: examples.first_replies(read(path, EvalReply), PER_KIND)
        ),
        per_kind=PER_KIND,
    )


def _template() -> Template:
    env = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.filters |= {"cell": table.cell, "clean": clean, "number": number}
    env.globals |= {"shown": SHOWN}
    return env.from_string(
        files("cai.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )


def clean(text: object) -> str:
    """Text with control characters, which HTML forbids, shown as U+FFFD. Line feeds and tabs stay."""
    return _UNPRINTABLE.sub("\ufffd", str(text).replace("\r\n", "\n"))


def number(value: object) -> str:
    """Floats to four significant digits, everything else as it is; null is `–`."""
    if value is None:
        return table.UNKNOWN
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---- from files to what the template shows ----


@dataclass(frozen=True)
class Section(Generic[T]):
    """What a section shows, or what it misses."""

    found: T | None
    missing: str = ""

    def then(self, make: Callable[[T], U | None], otherwise: str) -> Section[U]:
        """`make(found)`; when there is nothing to make it of, `otherwise` is what is missing."""
        if self.found is None:
            return Section(None, self.missing)
        made = make(self.found) if self.found else None
        return Section(made) if made else Section(None, otherwise)


@dataclass(frozen=True)
class Stage:
    """A manifest, as the report shows it."""

    artefact: str
    manifest: Manifest


@dataclass(frozen=True)
class Gate:
    """How many revisions there are and why some were dropped."""

    total: int
    kept: int
    dropped: list[tuple[str, int]]


def _stage(path: Path) -> Stage:
    try:
        return Stage(
            path.name.removesuffix(MANIFEST), Manifest.model_validate_json(path.read_bytes())
        )
    except ValidationError:
        raise StoreError(
            f"{path}: not a manifest of this version of cai; move it away to make the report without it"
        ) from None


def _glance(stages: Sequence[Stage]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """(key, [(value, stages)]) of what a reader asks first: constitution, models, seeds."""
    found: dict[str, dict[str, list[str]]] = {}
    for stage in stages:
        for key, value in [*stage.manifest.made.items(), *stage.manifest.counts.items()]:
            if _GLANCE.search(key) and isinstance(value, str):
                found.setdefault(key, {}).setdefault(value, []).append(stage.manifest.stage)
    return [(key, list(found[key].items())) for key in sorted(found)]


def _kinds(path: Path) -> dict[str, Kind | None]:
    return {prompt.id: prompt.kind for prompt in read(path, Prompt)} if path.exists() else {}


def _updates(path: Path) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    for line, row in json_lines(path):
        if not isinstance(row.get("step"), int):
            raise StoreError(f"{path}:{line}: step: expected the number of the update")
        rows.append(row)
    return rows


def _metrics(path: Path) -> list[tuple[str, object]]:
    try:
        return list(_flat(json.loads(path.read_text(encoding="utf-8"))))
    except ValueError:
        raise StoreError(
            f"{path}: cannot be read as metrics; delete it and run `cai reward` again"
        ) from None


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Nested numbers as (dotted name, number); a score row becomes one line with its interval."""
    if isinstance(value, dict):
        if {"metric", "mean", "n"} <= value.keys():
            score = Score.model_validate(value)
            yield score.metric, table.cell(score)
        else:
            for key, inner in value.items():
                yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{index}]")
    else:
        yield name, value


def _headline(scores: Iterable[Score]) -> tuple[list[str], list[tuple[str, list[str]]]] | None:
    subjects, lines = table.rows(scores)
    return (subjects, lines) if subjects else None


def _styles(scores: Sequence[Score]) -> Markup | None:
    if not any(score.metric.startswith("refusal.style.") for score in scores):
        return None
    return Markup(plots.style_shares(scores))  # noqa: S704


def _gate(rows: Iterable[Revision]) -> Gate:
    reasons = Counter(row.dropped for row in rows)
    kept = reasons.pop(None, 0)
    dropped = [(reason, count) for reason, count in reasons.most_common() if reason is not None]
    return Gate(kept + sum(count for _, count in dropped), kept, dropped)
