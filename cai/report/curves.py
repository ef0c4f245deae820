"""The curve of a scaling law, as SVG text; see `svg`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from cai.report.svg import BLUE, INK, VERMILLION, short, svg

if TYPE_CHECKING:
    from cai.statistics.scaling_laws import Fit, Prediction


def scaling_plot(
    points: Sequence[tuple[float, float]],
    fitted: Fit,
    predictions: Sequence[Prediction],
    labels: tuple[str, str],
) -> str:
    """The runs, the fitted law, and predictions with their intervals; x is logarithmic.

    Args:
        labels: of x and y.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        xs = [x for x, _ in points] + [row.x for row in predictions]
        line = np.geomspace(min(xs), max(xs), 200)
        axes.plot(line, fitted(line), color=BLUE, linewidth=1.8, label="law")
        axes.plot(*zip(*points, strict=True), "o", color=INK, markersize=4, label="runs")
        if predictions:
            values = np.array([[row.value, row.low, row.high] for row in predictions]).T
            spread = np.abs(values[1:] - values[0])
            axes.errorbar(
                [row.x for row in predictions], values[0], yerr=spread,
                fmt="s", color=VERMILLION, capsize=4, label="prediction, 95 %",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel(short(labels[0]))
        axes.set_ylabel(short(labels[1]))
        axes.grid(alpha=0.2, color=INK, linewidth=0.6)
        axes.legend(frameon=False)

    return svg(draw, "Scaling law", height=4.0)
