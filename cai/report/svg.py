"""Figures as SVG text: `<svg>…</svg>` for an HTML page. The same drawing gives the same bytes.

Words are text, not outlines, and the ink is `currentColor`, so that the page's font and dark mode
apply to the plot. Colours are those of Okabe and Ito (2008), distinguishable with any common colour
blindness; lines differ in dashes too.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

BLUE = "#0072b2"
ORANGE = "#e69f00"
GREEN = "#009e73"
VERMILLION = "#d55e00"
SKY = "#56b4e9"
PURPLE = "#cc79a7"
LINES: tuple[tuple[str, Any], ...] = (
    (ORANGE, "--"),
    (GREEN, "-."),
    (PURPLE, ":"),
    (SKY, (0, (5, 1, 1, 1, 1, 1))),
    (VERMILLION, (0, (1, 3))),
)
"""Colour and dashes of lines, in order, repeated when there are more lines."""
MAX_LINES = 14
"""Lines of one plot: a legend of more leaves no room for the plot."""
MAX_NAME_CHARS = 32
INK = "#010203"
"""Placeholder for `currentColor`, which matplotlib does not accept."""
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
}


def short(name: str) -> str:
    """The last 32 characters at most, so that a path does not push the plot off the page.

    Control characters become U+FFFD.
    """
    name = "".join(char if char.isprintable() else "\ufffd" for char in name)
    return name if len(name) <= MAX_NAME_CHARS else "…" + name[-MAX_NAME_CHARS + 1 :]


def legend_beside(axes: Axes, count: int) -> None:
    """The legend at the right of a plot, which says so when `count` is more than are drawn."""
    title = f"first {MAX_LINES} of {count}" if count > MAX_LINES else None
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), title=title)


def number(value: object) -> float:
    """The number to plot; NaN, which leaves a gap, for anything but a finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def svg(draw: Callable[[Figure], None], title: str, *, height: float, width: float = 8.4) -> str:
    """The drawn figure as an `<svg>` element for HTML.

    It has no XML header, metadata or style sheet, and no id that is not referred to.
    """
    with rc_context({**_RC, "svg.hashsalt": f"cai {title}"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():
            # The font is for layout only; the browser draws with a font that has the glyph.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", text)
    text = re.sub(r"<style.*?</style>|font-family: [^;\"]*; ?", "", text, flags=re.DOTALL)
    # The page shrinks the width; a fixed height would leave a gap. viewBox keeps the aspect ratio.
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{title}" style="stroke-linejoin: round">{rest}'
