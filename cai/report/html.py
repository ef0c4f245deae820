"""The report of a run as one self-contained HTML page.

It shows what was done, how much the model changed, and examples of texts. It is made from the files
of the run folder alone, without a model or network; a missing file is named in its section. The
page loads nothing: style and plots are inline, there is no script, and a content security policy
says so to the browser. Texts of models and users are escaped by jinja2: they are data of the
template, never template source.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

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
    VALIDATION_FILE,
)
from cai.errors import StoreError
from cai.records import EvalReply, Preference, Revision, Score
from cai.report import examples, labels, plots, table
from cai.report.nulls import null_rows
from cai.report.sections import (
    MANIFEST,
    RunFiles,
    filter_counts,
    flat_metrics,
    headline,
    kinds_of_prompts,
    ppo_updates,
    read_metrics,
    read_scores,
    read_stage,
    settings_summary,
)
from cai.reward import hacking
from cai.store import atomic_write, json_lines, read_rows

EXAMPLES_PER_KIND = 3
"""Examples of each kind of prompt."""
SHOWN_CHARS = 600
"""Characters of a text that are visible at first; the full text is one click away."""
NO_UPDATE = "No update of PPO is finished yet."

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into the run folder, atomically, and return its path.

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
    run_files = RunFiles(run_dir)
    stages = [read_stage(path) for path in sorted(run_dir.glob(f"*{MANIFEST}"))]
    return _template().render(
        run=run_dir.resolve().name,
        stages=stages,
        settings=settings_summary(stages),
        nulls=null_rows(run_dir),
        **_score_sections(run_files),
        **_ppo_sections(run_files),
        labels=run_files.section(
            PREFERENCES, "label", lambda path: labels.diagnose(read_rows(path, Preference))
        ),
        reward=run_files.section(f"{REWARD}/metrics.json", "reward", read_metrics),
        **_example_sections(run_files),
        per_kind=EXAMPLES_PER_KIND,
    )


def _score_sections(run_files: RunFiles) -> dict[str, Any]:
    scores = run_files.section(SCORES, "eval", read_scores)
    no_comparison = "No two of base, sft and policy were evaluated on the same prompts."
    return {
        "headline": scores.then(headline, f"{SCORES} holds no row of the refusal evaluation."),
        "changes": scores.then(table.changes, no_comparison),
        "scores": scores.then(list, f"{SCORES} is empty."),
        "styles": scores.then(_style_plot, f"{SCORES} holds no style shares."),
    }


def _ppo_sections(run_files: RunFiles) -> dict[str, Any]:
    updates = run_files.section(f"{POLICY}/{METRICS}", "ppo", ppo_updates)
    return {
        "curves": updates.then(lambda rows: Markup(plots.ppo_curves(rows)), NO_UPDATE),  # noqa: S704
        "validation": run_files.section(f"{POLICY}/{VALIDATION_FILE}", "ppo", _validation_plot),
        "signs": updates.then(hacking.sign_lines, NO_UPDATE),
        "last": updates.then(lambda rows: list(flat_metrics(rows[-1])), NO_UPDATE),
    }


def _example_sections(run_files: RunFiles) -> dict[str, Any]:
    kinds = kinds_of_prompts(run_files.folder / PROMPTS)

    def first_revisions(path: Path) -> list[examples.RevisionExample]:
        return examples.first_revisions(read_rows(path, Revision), kinds, EXAMPLES_PER_KIND)

    def first_replies(path: Path) -> list[examples.ReplyExample]:
        return examples.first_replies(read_rows(path, EvalReply), EXAMPLES_PER_KIND)

    return {
        "filtered": run_files.section(
            REVISIONS, "revise", lambda path: filter_counts(read_rows(path, Revision))
        ),
        "revisions": run_files.section(REVISIONS, "revise", first_revisions),
        "replies": run_files.section(REPLIES, "eval", first_replies),
    }


def _validation_plot(path: Path) -> Markup | None:
    rows = [row for _, row in json_lines(path)]
    drawn = [row for row in rows if any(key.startswith(plots.FAILURES) for key in row)]
    return Markup(plots.validation_curves(drawn)) if drawn else None  # noqa: S704


def _style_plot(scores: list[Score]) -> Markup | None:
    if not any(score.metric.startswith(plots.STYLE_METRICS) for score in scores):
        return None
    return Markup(plots.style_shares(scores))  # noqa: S704


def _template() -> Template:
    env = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.filters |= {"cell": table.cell, "clean": clean, "number": number}
    env.globals |= {"shown_chars": SHOWN_CHARS}
    source = files("cai.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return env.from_string(source)


def clean(text: object) -> str:
    """Text with U+FFFD for control characters, which HTML forbids. Line feeds and tabs stay."""
    return _UNPRINTABLE.sub("\ufffd", str(text).replace("\r\n", "\n"))


def number(value: object) -> str:
    """Floats to four significant digits, other values as they are; `–` for None."""
    if value is None:
        return table.UNKNOWN
    return f"{value:.4g}" if isinstance(value, float) else str(value)
