"""Several runs side by side: their headline tables, their changes, and the mean over the runs.

One list of tables, shown on a terminal, as Markdown, and as a page with a plot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from cai.artifacts import REPLIES, SCORES, subjects_of
from cai.errors import StoreError
from cai.evals.headline_changes import changes_across_runs
from cai.records import EvalReply, Score
from cai.report.page import render_page
from cai.report.score_plots import helpful_harmless
from cai.report.sections import read_scores
from cai.report.table import HEADLINE, UNKNOWN, cell, headline_metrics, markdown_row
from cai.statistics.across_runs import RunChange
from cai.store import read_rows

NOT_COMPARED = ("seed", "name", "folder", "report_to")
"""Settings in which runs of one recipe may differ."""
MANY_SETTINGS = 8
"""Differing settings that are named; the others are counted."""


@dataclass(frozen=True)
class FinishedRun:
    """What a run's evaluation left, with the settings of the run."""

    name: str
    settings: Mapping[str, object]
    scores: list[Score]
    replies: list[EvalReply]


@dataclass(frozen=True)
class PlainTable:
    title: str
    heads: list[str]
    rows: list[list[str]]
    caption: str


def read_run(folder: Path, settings: Mapping[str, object]) -> FinishedRun:
    """The run in `folder`.

    Raises:
        StoreError: it is not evaluated yet.
    """
    for name in (SCORES, REPLIES):
        if not (folder / name).exists():
            raise StoreError(f"{folder / name}: not there yet: `cai eval` of that run writes it")
    scores = read_scores(folder / SCORES)
    return FinishedRun(
        folder.resolve().name, settings, scores, list(read_rows(folder / REPLIES, EvalReply))
    )


def tables(runs: Sequence[FinishedRun]) -> list[PlainTable]:
    """The runs' subjects side by side, and the paired changes over the runs."""
    return [_headline(runs), _changes(runs)]


def _headline(runs: Sequence[FinishedRun]) -> PlainTable:
    """A row per metric and run, a column per subject."""
    by_run = [{(s.metric, s.subject): s for s in run.scores} for run in runs]
    metrics = headline_metrics(metric for scores in by_run for metric, _ in scores)
    subjects = subjects_of(
        subject for scores in by_run for metric, subject in scores if metric in metrics
    )
    rows = [
        [label, run.name, *(cell(scores.get((metric, subject))) for subject in subjects)]
        for metric, label in metrics.items()
        for run, scores in zip(runs, by_run, strict=True)
    ]
    caption = "mean [95 % interval] n = replies; errors count prompts, not draws"
    return PlainTable("Each run", ["metric", "run", *subjects], rows, caption)


def _changes(runs: Sequence[FinishedRun]) -> PlainTable:
    labels = dict(HEADLINE)
    changes = changes_across_runs([run.replies for run in runs])
    rows = [
        [
            labels.get(change.metric, change.metric),
            change.subject.replace("-", " − "),
            *(_points(value) + " pp" if value is not None else UNKNOWN for value in change.by_run),
            _mean_cell(change),
        ]
        for change in changes
    ]
    heads = ["metric", "models", *(run.name for run in runs), f"mean of {len(runs)} runs"]
    caption = (
        "paired by prompt and draw, in percentage points; mean [95 % interval over runs and"
        " prompts] n = runs with a change. Few runs say little about the next one"
    )
    return PlainTable("Changes on the same prompts", heads, rows, caption)


def _mean_cell(change: RunChange) -> str:
    """`−28 pp [−41, −15] n=3 runs`."""
    if change.mean is None:
        return UNKNOWN
    ends = ""
    if change.ci_low is not None and change.ci_high is not None:
        ends = f" [{_points(change.ci_low)}, {_points(change.ci_high)}]"
    return f"{_points(change.mean)} pp{ends} n={change.runs} run{'s' if change.runs > 1 else ''}"


def _points(value: float) -> str:
    text = f"{100 * value:+.0f}"
    return "0" if not text.strip("+-0") else text.replace("-", "−")


def notes(runs: Sequence[FinishedRun]) -> list[str]:
    """A line about seeds, and one about other settings in which the runs differ, if they do."""
    lines = ["seeds: " + ", ".join(str(run.settings.get("seed")) for run in runs)]
    if len({run.settings.get("seed") for run in runs}) < len(runs):
        lines[0] += " (runs of one seed and the same settings are one run, counted twice)"
    flat = [_flat(run.settings) for run in runs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    differing = [
        f"{key} ({', '.join(_shown(settings.get(key)) for settings in flat)})"
        for key in keys
        if key.partition(".")[0] not in NOT_COMPARED
        and any(settings.get(key) != flat[0].get(key) for settings in flat)
    ]
    if differing:
        named, others = differing[:MANY_SETTINGS], len(differing[MANY_SETTINGS:])
        lines.append(
            "settings differ, so that the mean is not one over seeds alone: "
            + ", ".join(named)
            + (f", and {others} more" if others else "")
        )
    return lines


def _flat(settings: Mapping[str, object], start: str = "") -> dict[str, object]:
    """Dotted key -> value."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{start}{key}.")
        else:
            flat[f"{start}{key}"] = value
    return flat


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def rich_table(table: PlainTable) -> Table:
    """The table for a terminal."""
    shown = Table(title=table.title, caption=table.caption, caption_justify="left")
    for index, head in enumerate(table.heads):
        shown.add_column(Text(head), justify="left" if index < 2 else "right")
    for row in table.rows:
        shown.add_row(*(Text(text) for text in row))
    return shown


def markdown(runs: Sequence[FinishedRun]) -> str:
    """All tables and notes as one Markdown page."""
    parts = [f"# {len(runs)} runs side by side\n"]
    for table in tables(runs):
        rules = ["---", "---", *["---:"] * (len(table.heads) - 2)]
        rows = [table.heads, rules, *table.rows]
        parts.append(f"## {table.title}\n\n{''.join(map(markdown_row, rows))}\n{table.caption}.\n")
    parts.append("".join(f"- {line}\n" for line in notes(runs)))
    return "\n".join(parts)


def page(runs: Sequence[FinishedRun]) -> str:
    """The tables and notes as one self-contained HTML page, with help against harm as a plot."""
    plot = helpful_harmless([(run.name, run.scores) for run in runs])
    return render_page(
        "several.html.jinja",
        count=len(runs),
        notes=notes(runs),
        tables=tables(runs),
        tradeoff=Markup(plot) if plot else None,  # noqa: S704 - matplotlib escapes its texts
    )
