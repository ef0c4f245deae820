"""Plots as SVG text: numbers in, `<svg>…</svg>` out. The same numbers give the same bytes.

Words are text, not outlines, and the ink is `currentColor`, so that the page's font and dark mode
apply to the plot. Colours are those of Okabe and Ito (2008), distinguishable with any common colour
blindness; lines differ in dashes too.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cai.evals.refusal import subjects_of
from cai.records import Kind, Score, Style

BLUE = "#0072b2"
ORANGE = "#e69f00"
GREEN = "#009e73"
VERMILLION = "#d55e00"
SKY = "#56b4e9"
PURPLE = "#cc79a7"
PART_LINES: tuple[tuple[str, Any], ...] = (
    (ORANGE, "--"),
    (GREEN, "-."),
    (PURPLE, ":"),
    (SKY, (0, (5, 1, 1, 1, 1, 1))),
    (VERMILLION, (0, (1, 3))),
)
"""Colour and dashes of the reward's parts, in order, repeated when there are more parts."""
MAX_NAME_CHARS = 32
MAX_UPDATES_WITH_MARKERS = 40
MIN_LABELLED_SHARE = 6
"""Per cent: narrower bars have no number on them."""
STYLE_METRICS = "refusal.style."
FAILURES = "failures."
SubjectMetric = tuple[str, str]
"""(subject, metric)"""
STYLES: dict[Style, tuple[str, str, str]] = {
    "desired_refusal": ("desired refusal", BLUE, "white"),
    "safe_answer": ("safe answer", SKY, "black"),
    "undesired_refusal": ("undesired refusal", ORANGE, "black"),
    "disallowed_content": ("disallowed content", VERMILLION, "white"),
}
"""Style -> name, colour of the bar, colour of the number on it. Good styles are blue, bad red."""

_INK = "#010203"
"""Placeholder for `currentColor`, which matplotlib does not accept."""
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
}


def ppo_curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Reward, its parts, reward by kind of prompt, and KL, over the updates of PPO.

    A number that is missing or null leaves a gap in its line. Without any update the axes are
    empty.

    Args:
        metrics: one dict per update with `update`, `reward`, `reward.*`, `reward_by_kind.*` and
            `kl`.
    """

    def draw(figure: Figure) -> None:
        _draw_ppo_curves(figure, metrics)

    return _svg(draw, "Reward and KL over the updates of PPO", height=5.0)


def _draw_ppo_curves(figure: Figure, metrics: Sequence[Mapping[str, Any]]) -> None:
    keys = {key for row in metrics for key in row}
    parts = sorted(key for key in keys if key.startswith(("reward.", "reward_by_kind.")))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_metric(top, metrics, "reward", label="total", color=BLUE, linewidth=2.2)
    for index, part in enumerate(parts):
        color, dashes = PART_LINES[index % len(PART_LINES)]
        name = part.replace("reward_by_kind.", "on ").removeprefix("reward.").lstrip("_")
        style = {"color": color, "linestyle": dashes, "linewidth": 1.4}
        _draw_metric(top, metrics, part, label=_short(name), **style)
    _draw_metric(bottom, metrics, "kl", label="KL", color=VERMILLION, linewidth=2.2)
    top.set_ylabel("reward per reply")
    bottom.set_ylabel("KL (nats per reply)")
    bottom.set_xlabel("PPO update")
    bottom.set_ylim(bottom=min(0.0, bottom.get_ylim()[0]))
    bottom.xaxis.get_major_locator().set_params(integer=True)
    for axes in (top, bottom):
        axes.grid(alpha=0.2, color=_INK, linewidth=0.6)
    if parts:
        top.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.align_ylabels()


def validation_curves(rows: Sequence[Mapping[str, Any]]) -> str:
    """Failures on validation prompts by group, over the updates of PPO; a line marks the kept
    weights.

    Args:
        rows: one dict per validation with `updates`, `score` and `failures.GROUP`.
    """
    groups = sorted({key for row in rows for key in row if key.startswith(FAILURES)})
    updates = [float(row["updates"]) for row in rows]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, group in enumerate(groups):
            color, dashes = PART_LINES[index % len(PART_LINES)]
            shares = [100 * _number(row.get(group)) for row in rows]
            name = _short(group.removeprefix(FAILURES))
            axes.plot(updates, shares, color=color, linestyle=dashes, marker="o", label=name)
        best = max(rows, key=lambda row: _number(row["score"]))
        axes.axvline(float(best["updates"]), color=_INK, linewidth=0.8, label="kept weights")
        axes.set_ylabel("failing replies (%)")
        axes.set_xlabel("PPO updates")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.2, color=_INK, linewidth=0.6)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return _svg(draw, "Failures on validation prompts over the updates of PPO", height=3.2)


def _draw_metric(axes: Axes, metrics: Sequence[Mapping[str, Any]], key: str, **style: Any) -> None:
    """One metric over updates, as a line."""
    steps = [float(row["update"]) for row in metrics]
    values = [_number(row.get(key)) for row in metrics]
    marker = "o" if len(steps) <= MAX_UPDATES_WITH_MARKERS else None
    axes.plot(steps, values, marker=marker, markersize=3, **style)


def _number(value: object) -> float:
    """The number to plot; NaN, which leaves a gap, for anything but a finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


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
    return _svg(draw, "Styles of replies by kind of prompt and subject", height=height)


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
    labels = [f"{_short(subject)}, n={_count(styles, subject, kind)}" for subject in subjects]
    axes.set_yticks(bars, labels)
    axes.set_title(f"{kind} prompts", loc="left", fontsize=10, fontweight="bold")
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", length=0)


def _short(name: str) -> str:
    """The last 32 characters at most, so that a path does not push the plot off the page.

    Control characters become U+FFFD.
    """
    name = "".join(char if char.isprintable() else "\ufffd" for char in name)
    return name if len(name) <= MAX_NAME_CHARS else "…" + name[-MAX_NAME_CHARS + 1 :]


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


def _svg(draw: Callable[[Figure], None], title: str, *, height: float) -> str:
    """The drawn figure as an `<svg>` element for HTML.

    It has no XML header, metadata or style sheet, and no id that is not referred to.
    """
    with rc_context({**_RC, "svg.hashsalt": f"cai {title}"}):
        figure = Figure(figsize=(8.4, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():
            # The font is for layout only; the browser draws with a font that has the glyph.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"<style.*?</style>|font-family: [^;\"]*; ?", "", svg, flags=re.DOTALL)
    # The page shrinks the width; a fixed height would leave a gap. viewBox keeps the aspect ratio.
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{title}" style="stroke-linejoin: round">{rest}'
