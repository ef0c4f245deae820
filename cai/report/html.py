"""The report of a run as one self-contained HTML page.

It shows what was done, how much the model changed, and texts: examples, and a browser of replies.
It is made from the files of the run folder alone, without a model or network; a missing file is
named in its section. How the page is kept safe: see `cai.report.page`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cai.artifacts import (
    EVALUATION_SCORES,
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
from cai.report import examples, labels, score_plots, table, training_plots
from cai.report.browser import BrowserData, browser_data
from cai.report.class_shares import class_shares
from cai.report.headline_words import change_sentences
from cai.report.nulls import null_rows
from cai.report.page import clean, render_page
from cai.report.provenance import chain, used_constitution
from cai.report.sections import (
    MANIFEST,
    RunFiles,
    Stage,
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
from cai.store import atomic_write, content_digest, json_lines, read_rows

EXAMPLES_PER_KIND = 3
"""Examples of each kind of prompt."""
NO_UPDATE = "No update of PPO is finished yet."


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
    return render_page(
        "report.html.jinja",
        run=run_dir.resolve().name,
        nulls=null_rows(run_dir),
        **_provenance(run_dir, stages),
        **_score_sections(run_files),
        **_ppo_sections(run_files),
        **_label_sections(run_files),
        reward=run_files.section(f"{REWARD}/metrics.json", "reward", read_metrics),
        **_example_sections(run_files),
        **_reply_sections(run_files),
        per_kind=EXAMPLES_PER_KIND,
    )


def _provenance(run_dir: Path, stages: Sequence[Stage]) -> dict[str, Any]:
    evaluations = run_dir / EVALUATION_SCORES
    manifests = [stage.manifest for stage in stages]
    digests = {name: value for one in manifests for name, value in one.content.items()}
    return {
        "stages": stages,
        "settings": settings_summary(stages),
        "chain": chain(manifests),
        "constitution": used_constitution(manifests),
        "scores_digest": digests.get(SCORES),
        "evaluations_digest": content_digest(evaluations) if evaluations.exists() else None,
    }


def _score_sections(run_files: RunFiles) -> dict[str, Any]:
    scores = run_files.section(SCORES, "eval", read_scores)
    no_point = f"{SCORES} has no subject with both refusals of benign and incorrect on disallowed."
    no_comparison = "No two of base, sft and policy were evaluated on the same prompts."
    return {
        "headline": scores.then(headline, f"{SCORES} holds no row of the refusal evaluation."),
        "tradeoff": scores.then(_tradeoff_plot, no_point),
        "sentences": scores.then(change_sentences, no_comparison),
        "changes": scores.then(table.changes, no_comparison),
        "scores": scores.then(list, f"{SCORES} is empty."),
        "styles": scores.then(_style_plot, f"{SCORES} holds no style shares."),
    }


def _ppo_sections(run_files: RunFiles) -> dict[str, Any]:
    updates = run_files.section(f"{POLICY}/{METRICS}", "ppo", ppo_updates)
    return {
        "curves": updates.then(_reward_plot, NO_UPDATE),
        "texts": updates.then(_text_plot, "No update has lengths."),
        "validation": run_files.section(f"{POLICY}/{VALIDATION_FILE}", "ppo", _validation_plot),
        "signs": updates.then(hacking.sign_lines, NO_UPDATE),
        "last": updates.then(lambda rows: list(flat_metrics(rows[-1])), NO_UPDATE),
    }


def _label_sections(run_files: RunFiles) -> dict[str, Any]:
    def section(load: Any) -> Any:
        return run_files.section(
            PREFERENCES, "label", lambda path: load(read_rows(path, Preference))
        )

    return {"labels": section(labels.diagnose), "principles": section(labels.by_principle)}


def _example_sections(run_files: RunFiles) -> dict[str, Any]:
    kinds = kinds_of_prompts(run_files.folder / PROMPTS)

    def first_revisions(path: Path) -> list[examples.RevisionExample]:
        return examples.first_revisions(read_rows(path, Revision), kinds, EXAMPLES_PER_KIND)

    return {
        "filtered": run_files.section(
            REVISIONS, "revise", lambda path: filter_counts(read_rows(path, Revision))
        ),
        "revisions": run_files.section(REVISIONS, "revise", first_revisions),
    }


def _reply_sections(run_files: RunFiles) -> dict[str, Any]:
    def first_replies(path: Path) -> list[examples.ReplyExample]:
        return examples.first_replies(read_rows(path, EvalReply), EXAMPLES_PER_KIND)

    def browser(path: Path) -> BrowserData:
        return browser_data(read_rows(path, EvalReply), clean)

    data = run_files.section(REPLIES, "eval", browser)
    return {
        "replies": run_files.section(REPLIES, "eval", first_replies),
        "browser": data,
        "browser_json": Markup(data.content.json if data.content else "{}"),  # noqa: S704 - escaped
        "classes": run_files.section(
            REPLIES, "eval", lambda path: class_shares(read_rows(path, EvalReply))
        ),
    }


# The plots' text is escaped by matplotlib.


def _tradeoff_plot(scores: list[Score]) -> Markup | None:
    plot = score_plots.helpful_harmless([("this run", scores)])
    return Markup(plot) if plot else None  # noqa: S704


def _reward_plot(updates: list[Mapping[str, Any]]) -> Markup:
    return Markup(training_plots.ppo_curves(updates))  # noqa: S704


def _text_plot(updates: list[Mapping[str, Any]]) -> Markup | None:
    if not training_plots.has_text_metrics(updates):
        return None
    return Markup(training_plots.text_curves(updates))  # noqa: S704


def _validation_plot(path: Path) -> Markup | None:
    rows = [row for _, row in json_lines(path)]
    drawn = [row for row in rows if any(key.startswith(training_plots.FAILURES) for key in row)]
    return Markup(training_plots.validation_curves(drawn)) if drawn else None  # noqa: S704


def _style_plot(scores: list[Score]) -> Markup | None:
    if not any(score.metric.startswith(score_plots.STYLE_METRICS) for score in scores):
        return None
    return Markup(score_plots.style_shares(scores))  # noqa: S704
