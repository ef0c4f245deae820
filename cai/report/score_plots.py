"""Plots of scores: styles of replies, and help against harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cai.artifacts import subjects_of
from cai.records import Kind, Score, Style
from cai.report.svg import (
    BLUE,
    GREEN,
    INK,
    MAX_LINES,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    legend_beside,
    short,
    svg,
)

MIN_LABELLED_SHARE = 6
"""Per cent: narrower bars have no number on them."""
STYLE_METRICS = "refusal.style."
SubjectMetric = tuple[str, str]
"""(subject, metric)"""
STYLES: dict[Style, tuple[str, str, str]] = {
    "desired_refusal": ("desired refusal", BLUE, "white"),
    "safe_answer": ("safe answer", SKY, "black"),
    "undesired_refusal": ("undesired refusal", ORANGE, "black"),
    "disallowed_content": ("disallowed content", VERMILLION, "white"),
}
"""Style -> name, colour of the bar, colour of the number on it. Good styles are blue, bad red."""

HARM, HELP = "refusal.incorrect_rate.disallowed", "refusal.refusal_rate.benign"
SUBJECT_COLORS = {"base": ORANGE, "sft": SKY, "policy": BLUE}
OTHER_COLORS = (GREEN, PURPLE, VERMILLION)
RUN_MARKERS = "osD^vPX"
"""Repeated when there are more runs."""
NamedScores = tuple[str, Sequence[Score]]
"""(name of a run, its scores)"""


def helpful_harmless(runs: Sequence[NamedScores]) -> str | None:
    """Refusals of benign prompts against incorrect replies to disallowed ones, with intervals.

    One point per subject and run; the closer to the lower left corner, the better. None when no
    subject has both numbers.
    """
    points = [(name, _points(scores)) for name, scores in runs]
    if not any(of_run for _, of_run in points):
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, (name, of_run) in enumerate(points):
            name = name if index < MAX_LINES else "_"  # a name without a line in the legend
            marker = RUN_MARKERS[index % len(RUN_MARKERS)]
            _draw_run(axes, of_run, marker, label=short(name))
        axes.set_xlabel("refusals of benign prompts (%)   ← better")
        axes.set_ylabel("incorrect on disallowed (%)   ← better")
        # a little below 0, so that a point at 0 is not cut
        axes.set_xlim(left=-0.02 * axes.get_xlim()[1])
        axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])
        axes.grid(alpha=0.2, color=INK, linewidth=0.6)
        if len(runs) > 1:
            legend_beside(axes, len(points))

    width = 5.6 if len(runs) == 1 else 8.4
    return svg(draw, "Harm against help, by subject", height=4.0, width=width)


def _points(scores: Sequence[Score]) -> dict[str, tuple[Score, Score]]:
    """Subject -> (refusals of benign prompts, incorrect replies to disallowed ones)."""
    by_key = {(score.metric, score.subject): score for score in scores if score.mean is not None}
    subjects = subjects_of(subject for metric, subject in by_key if metric in (HARM, HELP))
    return {
        subject: (by_key[HELP, subject], by_key[HARM, subject])
        for subject in subjects
        if (HELP, subject) in by_key and (HARM, subject) in by_key
    }


def _draw_run(
    axes: Axes, points: Mapping[str, tuple[Score, Score]], marker: str, *, label: str
) -> None:
    """A run's subjects, joined in the order of training; the label stands in the legend."""
    others = [subject for subject in points if subject not in SUBJECT_COLORS]
    trained = [(_share(x), _share(y)) for name, (x, y) in points.items() if name not in others]
    line = axes.plot(
        [x for x, _ in trained], [y for _, y in trained], color=INK, linewidth=0.7, alpha=0.5
    )
    line[0].set_marker(marker)
    line[0].set_label(label)
    for subject, (x, y) in points.items():
        color = SUBJECT_COLORS.get(subject) or OTHER_COLORS[others.index(subject) % 3]
        axes.errorbar(
            _share(x),
            _share(y),
            xerr=_error_bar(x),
            yerr=_error_bar(y),
            fmt=marker,
            color=color,
            markersize=8,
            elinewidth=1.3,
        )
        offset = (7, 6)
        axes.annotate(short(subject), (_share(x), _share(y)), offset, textcoords="offset points")


def _error_bar(score: Score) -> list[list[float]] | None:
    """Lengths below and above the mean, per cent; None when the interval is unknown."""
    if score.mean is None or score.ci_low is None or score.ci_high is None:
        return None
    below, above = score.mean - score.ci_low, score.ci_high - score.mean
    return [[100 * max(0.0, below)], [100 * max(0.0, above)]]


def style_shares(scores: Sequence[Score]) -> str:
    """Styles of replies: per kind of prompt one stacked bar per subject.

    Args:
        scores: rows `refusal.style.KIND.STYLE` are used, others ignored.
    """
    styles = {
        (score.subject, score.metric): score
        for score in scores
        if score.metric.startswith(STYLE_METRICS)
    }
    subjects = subjects_of(subject for subject, _ in styles)[::-1]  # the first is on top
    kinds = [
        kind
        for kind in get_args(Kind)
        if any(metric.startswith(f"{STYLE_METRICS}{kind}.") for _, metric in styles)
    ]

    def draw(figure: Figure) -> None:
        panels = figure.subplots(max(1, len(kinds)), 1, sharex=True, squeeze=False)[:, 0]
        for axes, kind in zip(panels, kinds, strict=False):
            _draw_style_bars(axes, styles, subjects, kind)
        panels[-1].set_xlabel("share of replies (%)")
        handles, names = panels[0].get_legend_handles_labels()
        if handles:
            figure.legend(
                handles,
                names,
                frameon=False,
                loc="outside upper left",
                ncols=len(names),
                fontsize=9,
            )

    height = 1.1 + max(1, len(kinds)) * (0.55 + 0.33 * len(subjects))
    return svg(draw, "Styles of replies by kind of prompt and subject", height=height)


def _draw_style_bars(
    axes: Axes, styles: Mapping[SubjectMetric, Score], subjects: Sequence[str], kind: str
) -> None:
    """One stacked bar per subject for prompts of `kind`."""
    bars = range(len(subjects))
    starts = [0.0] * len(subjects)
    for style, (name, color, ink) in STYLES.items():
        metric = f"{STYLE_METRICS}{kind}.{style}"
        shares = [_share(styles.get((subject, metric))) for subject in subjects]
        axes.barh(bars, shares, left=starts, color=color, label=name, height=0.72)
        for bar, start, share in zip(bars, starts, shares, strict=True):
            if share >= MIN_LABELLED_SHARE:
                center = start + share / 2
                text = f"{share:.0f}"
                axes.text(center, bar, text, ha="center", va="center", color=ink, fontsize=9)
        starts = [start + share for start, share in zip(starts, shares, strict=True)]
    labels = [f"{short(subject)}, n={_count(styles, subject, kind)}" for subject in subjects]
    axes.set_yticks(bars, labels)
    axes.set_title(f"{kind} prompts", loc="left", fontsize=10, fontweight="bold")
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", length=0)


def _share(score: Score | None) -> float:
    """Per cent; 0 when unknown (the bar's n shows that)."""
    return 0.0 if score is None or score.mean is None else 100 * score.mean


def _count(styles: Mapping[SubjectMetric, Score], subject: str, kind: str) -> int:
    """Number of graded replies of a subject to prompts of `kind`."""
    prefix = f"{STYLE_METRICS}{kind}."
    counts = [
        score.n
        for (name, metric), score in styles.items()
        if name == subject and metric.startswith(prefix)
    ]
    return max(counts, default=0)
