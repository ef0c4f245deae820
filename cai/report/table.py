"""The headline table, for terminals and Markdown: no number without its interval, count and what is missing."""

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
    ("refusal.refusal_rate.benign_borderline", "refusals of borderline benign ↓"),
    ("refusal.style.disallowed.desired_refusal", "desired refusal style on disallowed ↑"),
    ("reward.mean", "mean reward ↑"),
    ("kl.mean", "KL from reference, nats per reply"),
    ("length.words", "words per reply"),
)
"""Metric and what it is called in the table; the arrow points to the better side, where there is one."""

_CHANGES = (".change", ".relative_change")


def is_share(metric: str) -> bool:
    """Whether a metric is shown in per cent: rates, accuracies and all of `refusal.` are; rewards, nats and words are not."""
    return (
        metric.startswith("refusal.") or "accuracy" in metric.split(".") or metric.endswith("_rate")
    )


def cell(score: Score | None) -> str:
    """`62 % [50, 73] n=96`, or `1.24 [1.01, 1.47] n=96`; `–` where nobody knows; what was not scored is added when there is any.

    A change of a share is in percentage points (`−40 pp`), a relative one in per cent.
    """
    if score is None:
        return UNKNOWN
    value, ends = _number(score)
    counted = f" n={score.n}" + (f" ({score.unscored} unscored)" if score.unscored else "")
    return value + (f" [{ends}]" if ends else "") + counted


def _number(score: Score) -> tuple[str, str]:
    """(the mean with its unit, "low, high" without)."""
    if is_share(score.metric):
        unit = " pp" if score.metric.endswith(".change") else " %"
        scale, digits = 100.0, 0
    else:
        unit, scale, digits = "", 1.0, 1 if score.metric.startswith("length.") else 2
    signed = score.metric.endswith(_CHANGES)

    def show(value: float) -> str:
        text = f"{value * scale:{'+' if signed else ''}.{digits}f}"
        if not text.strip("+-0."):
            text = text.lstrip("+-")
        return text.replace("-", "−")

    ends = (
        ""
        if score.ci_low is None or score.ci_high is None
        else f"{show(score.ci_low)}, {show(score.ci_high)}"
    )
    return (UNKNOWN if score.mean is None else show(score.mean) + unit), ends


def rows(scores: Iterable[Score]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(subjects, [(label, one cell a subject)]): the headline metrics that any subject has, in the order of `HEADLINE`.

    When a metric was scored twice for a subject, the later row of the file counts.
    """
    wanted = dict(HEADLINE)
    found = {(score.metric, score.subject): score for score in scores if score.metric in wanted}
    subjects = subjects_of(subject for _, subject in found)
    present = {metric for metric, _ in found}
    return subjects, [
        (label, [cell(found.get((metric, subject))) for subject in subjects])
        for metric, label in HEADLINE
        if metric in present
    ]


def changes(scores: Iterable[Score]) -> list[tuple[str, str, str, str]]:
    """(metric, "policy − base", change, relative change) for every pair of subjects that was compared."""
    found: dict[tuple[str, str], dict[str, Score]] = {}
    for score in scores:
        if score.metric.endswith(_CHANGES):
            metric, what = score.metric.rsplit(".", 1)
            found.setdefault((metric, score.subject), {})[what] = score
    return [
        (
            dict(HEADLINE).get(metric, metric),
            subject.replace("-", " − "),
            cell(both.get("change")),
            cell(both.get("relative_change")),
        )
        for (metric, subject), both in found.items()
    ]


def headline(scores: Sequence[Score]) -> Table:
    """For `rich.print`: one row a metric, one column a subject."""
    subjects, lines = rows(scores)
    table = Table(
        caption="mean [95 % interval] n = replies; errors count prompts, not draws",
        caption_justify="left",
    )
    table.add_column("metric", no_wrap=True)
    for subject in subjects:
        table.add_column(Text(subject), justify="right")
    for label, cells in lines:
        table.add_row(Text(label), *map(Text, cells))
    return table


def headline_markdown(scores: Sequence[Score]) -> str:
    """The same table for a model card; ends with a newline."""
    subjects, lines = rows(scores)
    table = [
        ["metric", *subjects],
        ["---", *["---:"] * len(subjects)],
        *([label, *cells] for label, cells in lines),
    ]
    return "".join(
        "| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in table
    )
