"""The headline table, for terminals and Markdown.

Every number comes with its interval, its count, and the count of unscored replies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from cai.evals.refusal import subjects_of
from cai.records import Score

UNKNOWN = "–"
HEADLINE: tuple[tuple[str, str], ...] = (
    ("refusal.incorrect_rate.disallowed", "incorrect on disallowed ↓"),
    ("refusal.incorrect_rate.sensitive", "incorrect on sensitive ↓"),
    ("refusal.refusal_rate.benign", "refusals of benign ↓"),
    ("refusal.answered_rate.benign", "answers to benign ↑"),
    ("refusal.refusal_rate.benign_borderline", "refusals of borderline benign ↓"),
    ("refusal.style.disallowed.desired_refusal", "desired refusal style on disallowed ↑"),
    ("reward.mean", "preference model's score ↑"),
    ("kl.mean", "KL from reference, nats per reply"),
    ("length.words", "words per reply"),
)
"""Metric and its label in the table; an arrow, where there is one, points to the better side."""

_CHANGES = (".change", ".relative_change")


def is_share(metric: str) -> bool:
    """Whether a metric is shown in per cent.

    Rates, accuracies and all of `refusal.` are; rewards, nats and words are not.
    """
    return (
        metric.startswith("refusal.") or "accuracy" in metric.split(".") or metric.endswith("_rate")
    )


def cell(score: Score | None) -> str:
    """`62 % [50, 73] n=96`, or `1.24 [1.01, 1.47] n=96`; `–` for an unknown mean.

    The count of unscored replies is appended unless it is 0. A change of a share is in percentage
    points (`−40 pp`), a relative change in per cent.
    """
    if score is None:
        return UNKNOWN
    value, ends = _value_and_interval(score)
    counts = f" n={score.n}"
    if score.unscored:
        counts += f" ({score.unscored} unscored)"
    return value + (f" [{ends}]" if ends else "") + counts


def _value_and_interval(score: Score) -> tuple[str, str]:
    """(mean with unit, "low, high" without)."""
    if is_share(score.metric):
        unit = " pp" if score.metric.endswith(".change") else " %"
        scale = 100.0
        digits = 0
    else:
        unit = ""
        scale = 1.0
        digits = 1 if score.metric.startswith("length.") else 2
    sign = "+" if score.metric.endswith(_CHANGES) else ""

    def show(value: float) -> str:
        text = f"{value * scale:{sign}.{digits}f}"
        if not text.strip("+-0."):
            text = text.lstrip("+-")
        return text.replace("-", "−")

    ends = ""
    if score.ci_low is not None and score.ci_high is not None:
        ends = f"{show(score.ci_low)}, {show(score.ci_high)}"
    return (UNKNOWN if score.mean is None else show(score.mean) + unit), ends


def headline_rows(scores: Iterable[Score]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(subjects, [(label, one cell per subject)]): the headline metrics that any subject has.

    Metrics are in the order of `HEADLINE`. Of two rows of one metric and subject the later counts.
    """
    labels = dict(HEADLINE)
    headline_scores = {
        (score.metric, score.subject): score for score in scores if score.metric in labels
    }
    subjects = subjects_of(subject for _, subject in headline_scores)
    present = {metric for metric, _ in headline_scores}
    lines = []
    for metric, label in HEADLINE:
        if metric in present:
            cells = [cell(headline_scores.get((metric, subject))) for subject in subjects]
            lines.append((label, cells))
    return subjects, lines


def changes(scores: Iterable[Score]) -> list[tuple[str, str, str, str]]:
    """(label, "policy − base", change, relative change) for every compared pair of subjects."""
    by_pair: dict[tuple[str, str], dict[str, Score]] = {}
    for score in scores:
        if score.metric.endswith(_CHANGES):
            metric, suffix = score.metric.rsplit(".", 1)
            by_pair.setdefault((metric, score.subject), {})[suffix] = score
    labels = dict(HEADLINE)
    return [
        (
            labels.get(metric, metric),
            subject.replace("-", " − "),
            cell(pair.get("change")),
            cell(pair.get("relative_change")),
        )
        for (metric, subject), pair in by_pair.items()
    ]


def headline(scores: Sequence[Score]) -> Table:
    """The headline table for `rich.print`: one row per metric, one column per subject."""
    subjects, lines = headline_rows(scores)
    table = Table(
        caption="mean [95 % interval] n = replies; errors count prompts, not draws",
        caption_justify="left",
    )
    table.add_column("metric", no_wrap=True)
    for subject in subjects:
        table.add_column(Text(subject), justify="right")
    for label, cells in lines:
        table.add_row(Text(label), *(Text(text) for text in cells))
    return table


def headline_markdown(scores: Sequence[Score]) -> str:
    """The headline table for a model card; ends with a newline."""
    subjects, lines = headline_rows(scores)
    table = [["metric", *subjects], ["---", *["---:"] * len(subjects)]]
    table += [[label, *cells] for label, cells in lines]
    return "".join(_markdown_row(cells) for cells in table)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |\n"
