"""Plots as SVG text: numbers in, `<svg>…</svg>` out. The same numbers give the same bytes.

Words are text, not outlines, and ink is `currentColor`, so a page's font and its dark mode reach into the plot.
Colours are those of Okabe and Ito (2008), told apart with any common colour blindness; lines differ in dashes too.
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

from cai.evals.refusal import subjects_of
from cai.records import Kind, Score, Style

BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#56b4e9",
    "#cc79a7",
)
STYLES: dict[Style, tuple[str, str, str]] = {
    "desired_refusal": ("desired refusal", BLUE, "white"),
    "safe_answer": ("safe answer", SKY, "black"),
    "undesired_refusal": ("undesired refusal", ORANGE, "black"),
    "disallowed_content": ("disallowed content", VERMILLION, "white"),
}
"""Style -> name, colour of the bar, colour of the number on it. Good ones are blue, bad ones red."""

_INK = "#010203"
"""Stands for `currentColor`, which matplotlib does not know."""
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

    `metrics`: one dict an update with `step`, `reward`, `reward.*`, `reward_on.*` and `kl`.

    A number that is missing or null leaves a gap in its line. Without any update the axes are empty.
    """
    steps = [float(row["step"]) for row in metrics]
    parts = sorted(
        {key for row in metrics for key in row if key.startswith(("reward.", "reward_on."))}
    )

    def line(axes: Axes, key: str, label: str, colour: str, **how: Any) -> None:
        values = [_number(row.get(key)) for row in metrics]
        axes.plot(
            steps,
            values,
            label=label,
            color=colour,
            marker="o" if len(steps) <= 40 else None,
            markersize=3,
            **how,
        )

    def draw(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        line(top, "reward", "total", BLUE, linewidth=2.2)
        looks = [
            (ORANGE, "--"),
            (GREEN, "-."),
            (PURPLE, ":"),
            (SKY, (0, (5, 1, 1, 1, 1, 1))),
            (VERMILLION, (0, (1, 3))),
        ]
        for index, part in enumerate(parts):
            colour, dashes = looks[index % len(looks)]
            name = _short(part.replace("reward_on.", "on ").removeprefix("reward.").lstrip("_"))
            line(top, part, name, colour, linestyle=dashes, linewidth=1.4)
        line(bottom, "kl", "KL", VERMILLION, linewidth=2.2)
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

    return _svg(draw, "Reward and KL over the updates of PPO", height=5.0)


def _number(value: object) -> float:
    """The number to plot; NaN, which leaves a gap, for whatever is not a finite one."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def style_shares(scores: Sequence[Score]) -> str:
    """What replies look like: per kind of prompt one stacked bar a subject, from the rows `refusal.style.KIND.STYLE`."""
    found = {
        (score.subject, score.metric): score
        for score in scores
        if score.metric.startswith("refusal.style.")
    }
    subjects = subjects_of(subject for subject, _ in found)[::-1]
    kinds = [
        kind
        for kind in get_args(Kind)
        if any(metric.startswith(f"refusal.style.{kind}.") for _, metric in found)
    ]

    def bars(axes: Axes, kind: str) -> None:
        counts = [_count(found, subject, kind) for subject in subjects]
        left = [0.0] * len(subjects)
        for style, (name, colour, ink) in STYLES.items():
            shares = [
                _share(found.get((subject, f"refusal.style.{kind}.{style}")))
                for subject in subjects
            ]
            axes.barh(
                range(len(subjects)), shares, left=left, color=colour, label=name, height=0.72
            )
            for row, (start, width) in enumerate(zip(left, shares, strict=True)):
                if width >= 6:
                    axes.text(
                        start + width / 2,
                        row,
                        f"{width:.0f}",
                        ha="center",
                        va="center",
                        color=ink,
                        fontsize=9,
                    )
            left = [start + width for start, width in zip(left, shares, strict=True)]
        labels = [f"{_short(subject)}, n={n}" for subject, n in zip(subjects, counts, strict=True)]
        axes.set_yticks(range(len(subjects)), labels)
        axes.set_title(f"{kind} prompts", loc="left", fontsize=10, fontweight="bold")
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", length=0)

    def draw(figure: Figure) -> None:
        every = figure.subplots(max(1, len(kinds)), 1, sharex=True, squeeze=False)[:, 0]
        for axes, kind in zip(every, kinds, strict=False):
            bars(axes, kind)
        every[-1].set_xlabel("share of replies (%)")
        handles, names = every[0].get_legend_handles_labels()
        if handles:
            figure.legend(
                handles,
                names,
                frameon=False,
                loc="outside upper left",
                ncols=len(names),
                fontsize=9,
            )

    return _svg(
        draw,
        "Styles of replies by kind of prompt and subject",
        height=1.1 + max(1, len(kinds)) * (0.55 + 0.33 * len(subjects)),
    )


def _short(name: str) -> str:
    """At most 32 characters, the last ones: a path must not push the plot off the page. Control characters are U+FFFD."""
    name = "".join(char if char.isprintable() else "\ufffd" for char in name)
    return name if len(name) <= 32 else "…" + name[-31:]


def _share(score: Score | None) -> float:
    """Per cent; nothing is drawn where nobody knows (the bar's n tells)."""
    return 0.0 if score is None or score.mean is None else 100 * score.mean


def _count(found: Mapping[tuple[str, str], Score], subject: str, kind: str) -> int:
    return max(
        (
            found[subject, m].n
            for s, m in found
            if s == subject and m.startswith(f"refusal.style.{kind}.")
        ),
        default=0,
    )


def _svg(draw: Callable[[Figure], None], title: str, *, height: float) -> str:
    """The drawn figure as an `<svg>` element for HTML: no XML header, metadata, style sheet, or id that nothing refers to."""
    with rc_context({**_RC, "svg.hashsalt": f"cai {title}"}):
        figure = Figure(figsize=(8.4, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():
            # The font here only measures; the browser draws, with whatever font has the glyph.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"<style.*?</style>|font-family: [^;\"]*; ?", "", svg, flags=re.DOTALL)
    # A height in points beside a width that shrinks would leave a gap: the viewBox alone keeps the shape.
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{title}" style="stroke-linejoin: round">{rest}'
