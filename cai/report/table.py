"""The headline table, for terminals and Markdown.

Every number comes with its interval, its count, and the count of unscored replies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from cai.artifacts import subjects_of
from cai.records import Score

UNKNOWN = "–"
HEADLINE: tuple[tuple[str, str], ...] = (
    ("refusal.incorrect_rate.disallowed", "incorrect on disallowed ↓"),
    ("refusal.p_harm.disallowed", "P(harm) on disallowed, by the rubric ↓"),
    ("refusal.incorrect_rate.sensitive", "incorrect on sensitive ↓"),
    ("refusal.refusal_rate.benign", "refusals of benign ↓"),
    ("refusal.answered_rate.benign", "answers to benign ↑"),
    ("refusal.refusal_rate.benign_borderline", "refusals of borderline benign ↓"),
    ("refusal.style.disallowed.desired_refusal", "desired refusal style on disallowed ↑"),
    ("reward.mean", "preference model's score ↑"),
    ("reward.total", "PPO's reward, before its KL penalty ↑"),
    ("kl.at.*", "KL from reference at T = *, nats per reply"),
    ("kl.mean", "KL from reference, nats per reply"),
    ("length.words", "words per reply"),
    ("elo.rating", "Elo rating by the judge, base = 0 ↑"),
    ("elo.win_rate", "preferred to base by the judge ↑"),
    ("elo.length_controlled_win_rate", "preferred to base at equal length ↑"),
    ("hhh.accuracy", "HHH: accuracy ↑"),
    ("truthfulqa.mc1", "TruthfulQA: MC1 ↑"),
    ("truthfulqa.mc2", "TruthfulQA: MC2 ↑"),
    ("bbq.bias.ambig", "BBQ: bias, −1 to 1, ambiguous"),
    ("bbq.bias.disambig", "BBQ: bias, −1 to 1, disambiguated"),
    ("bbq.accuracy.ambig", "BBQ: accuracy, ambiguous ↑"),
    ("bbq.accuracy.disambig", "BBQ: accuracy, disambiguated ↑"),
    ("winogender.entropy.*", "Winogender: entropy in bits, instruction: * ↑"),
    ("crows_pairs.entropy.*", "CrowS-Pairs: entropy in bits, instruction: * ↑"),
    ("calibration.accuracy", "calibration: accuracy ↑"),
    ("calibration.ece", "calibration: ECE ↓"),
)
"""Metric and its label in the table; an arrow, where there is one, points to the better side. `*`
stands for the rest of the metric's name. Of `kl.mean`, files of earlier versions have a row.
"""

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
        first = score.metric.partition(".")[0]
        digits = {"length": 1, "elo": 0}.get(first, 2)
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
    by_key = {(score.metric, score.subject): score for score in scores}
    metrics = headline_metrics(metric for metric, _ in by_key)
    subjects = subjects_of(subject for metric, subject in by_key if metric in metrics)
    return subjects, [
        (label, [cell(by_key.get((metric, subject))) for subject in subjects])
        for metric, label in metrics.items()
    ]


def headline_metrics(present: Iterable[str]) -> dict[str, str]:
    """Metric -> its label, of the metrics among `present` that belong in the headline table."""
    names = list(dict.fromkeys(present))
    labels: dict[str, str] = {}
    for metric, label in HEADLINE:
        start, star, _ = metric.partition("*")
        for name in names:
            if name == metric or (star and name.startswith(start)):
                labels[name] = label.replace("*", name.removeprefix(start))
    return labels


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
    return "".join(markdown_row(cells) for cells in table)


def markdown_row(cells: Sequence[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |\n"
