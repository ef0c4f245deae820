"""Curves of a run's training: reward and its terms, KL, lengths, variety, validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cai.report.svg import (
    BLUE,
    INK,
    LINES,
    MAX_LINES,
    VERMILLION,
    legend_beside,
    number,
    short,
    svg,
)

MAX_UPDATES_WITH_MARKERS = 40
MAX_POINTS = 400
"""Updates that a curve shows at most, evenly spread: it bounds the size of the page."""
FAILURES = "failures."
TEXT_SHARES = {"top_response": "commonest reply", "eos_rate": "ended by the model"}
"""Metric -> its name in the legend."""


def thin(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """At most `MAX_POINTS` of the rows, evenly spread, the first and the last among them."""
    if len(rows) <= MAX_POINTS:
        return rows
    step = (len(rows) - 1) / (MAX_POINTS - 1)
    return [rows[round(index * step)] for index in range(MAX_POINTS)]


def ppo_curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Reward, its parts, reward by kind of prompt, and KL, over the updates of PPO.

    A number that is missing or null leaves a gap in its line. Without any update the axes are
    empty.

    Args:
        metrics: one dict per update with `update`, `reward`, `reward.*`, `reward_by_kind.*` and
            `kl`.
    """

    def draw(figure: Figure) -> None:
        _draw_ppo_curves(figure, thin(metrics))

    return svg(draw, "Reward and KL over the updates of PPO", height=5.0)


def _draw_ppo_curves(figure: Figure, metrics: Sequence[Mapping[str, Any]]) -> None:
    keys = {key for row in metrics for key in row}
    parts = sorted(key for key in keys if key.startswith(("reward.", "reward_by_kind.")))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_metric(top, metrics, "reward", label="total", color=BLUE, linewidth=2.2)
    for index, part in enumerate(parts[:MAX_LINES]):
        color, dashes = LINES[index % len(LINES)]
        name = part.replace("reward_by_kind.", "on ").removeprefix("reward.").lstrip("_")
        style = {"color": color, "linestyle": dashes, "linewidth": 1.4}
        _draw_metric(top, metrics, part, label=short(name), **style)
    _draw_metric(bottom, metrics, "kl", label="KL", color=VERMILLION, linewidth=2.2)
    top.set_ylabel("reward per reply")
    bottom.set_ylabel("KL (nats per reply)")
    bottom.set_xlabel("PPO update")
    bottom.set_ylim(bottom=min(0.0, bottom.get_ylim()[0]))
    bottom.xaxis.get_major_locator().set_params(integer=True)
    for axes in (top, bottom):
        axes.grid(alpha=0.2, color=INK, linewidth=0.6)
    if parts:
        legend_beside(top, len(parts))
    figure.align_ylabels()


def has_text_metrics(metrics: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any update has a number that `text_curves` shows."""
    return bool(_text_shares(metrics)) or any("length" in row for row in metrics)


def text_curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Length and variety of the sampled responses, over the updates of PPO.

    Args:
        metrics: one dict per update with `update`, `length`, `distinct_*`, `top_response` and
            `eos_rate`.
    """
    rows, shares = thin(metrics), _text_shares(metrics)

    def draw(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        _draw_metric(top, rows, "length", color=BLUE, linewidth=2.2)
        top.set_ylabel("tokens per reply")
        top.set_ylim(bottom=0)
        for index, key in enumerate(shares[:MAX_LINES]):
            color, dashes = LINES[index % len(LINES)]
            name = TEXT_SHARES.get(key, key.replace("distinct_", "distinct-"))
            _draw_metric(bottom, rows, key, label=name, color=color, linestyle=dashes)
        bottom.set_ylabel("share")
        bottom.set_ylim(0, 1.02)
        bottom.set_xlabel("PPO update")
        bottom.xaxis.get_major_locator().set_params(integer=True)
        for axes in (top, bottom):
            axes.grid(alpha=0.2, color=INK, linewidth=0.6)
        if shares:
            legend_beside(bottom, len(shares))
        figure.align_ylabels()

    return svg(draw, "Length and variety of replies over the updates of PPO", height=4.2)


def _text_shares(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = {key for row in metrics for key in row}
    distinct = sorted(key for key in keys if key.startswith("distinct_"))
    return distinct + [key for key in TEXT_SHARES if key in keys]


def validation_curves(rows: Sequence[Mapping[str, Any]]) -> str:
    """Failures on validation prompts by group, over the updates of PPO; a line marks the kept
    weights.

    Args:
        rows: one dict per validation with `updates`, `score` and `failures.GROUP`.
    """
    rows = _with_best(rows)
    groups = sorted({key for row in rows for key in row if key.startswith(FAILURES)})
    updates = [float(row["updates"]) for row in rows]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, group in enumerate(groups[:MAX_LINES]):
            color, dashes = LINES[index % len(LINES)]
            shares = [100 * number(row.get(group)) for row in rows]
            name = short(group.removeprefix(FAILURES))
            axes.plot(updates, shares, color=color, linestyle=dashes, marker="o", label=name)
        axes.axvline(float(_best(rows)["updates"]), color=INK, linewidth=0.8, label="kept weights")
        axes.set_ylabel("failing replies (%)")
        axes.set_xlabel("PPO updates")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.2, color=INK, linewidth=0.6)
        legend_beside(axes, len(groups))

    return svg(draw, "Failures on validation prompts over the updates of PPO", height=3.2)


def _with_best(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The rows that are drawn, the one of the kept weights among them."""
    drawn, best = thin(rows), _best(rows)
    return drawn if best in drawn else sorted([*drawn, best], key=lambda row: row["updates"])


def _best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return max(rows, key=lambda row: number(row["score"]))


def _draw_metric(axes: Axes, metrics: Sequence[Mapping[str, Any]], key: str, **style: Any) -> None:
    """One metric over updates, as a line."""
    steps = [float(row["update"]) for row in metrics]
    values = [number(row.get(key)) for row in metrics]
    marker = "o" if len(steps) <= MAX_UPDATES_WITH_MARKERS else None
    axes.plot(steps, values, marker=marker, markersize=3, **style)
