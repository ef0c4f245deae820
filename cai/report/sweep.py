"""The policies of a sweep side by side: a table, and charts as in figures 33 to 38 of
arXiv:2203.02155.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from cai.records import Score
from cai.report.svg import BLUE, INK, short, svg
from cai.report.table import UNKNOWN, cell, is_share

SUBJECT = "policy"
METRICS: tuple[tuple[str, str], ...] = (
    ("refusal.incorrect_rate.disallowed", "incorrect on disallowed"),
    ("refusal.refusal_rate.benign", "refusals of benign"),
    ("reward.total", "PPO's reward"),
    ("kl.at.1", "KL at T = 1, nats"),
    ("length.words", "words per reply"),
)
"""Metric and its name: of harm, of help, of what PPO maximised, and of what that cost."""


def policy_scores(scores: Sequence[Score]) -> dict[str, Score]:
    """Metric -> the policy's score, of those in `METRICS`."""
    names = {metric for metric, _ in METRICS}
    return {s.metric: s for s in scores if s.subject == SUBJECT and s.metric in names}


def sweep_table(runs: Mapping[str, Mapping[str, Score]]) -> Table:
    """A row a run, a column a metric.

    Args:
        runs: name -> metric -> the policy's score.
    """
    table = Table("run", caption="of the policy; mean [95 % interval] n = replies")
    for _, label in METRICS:
        table.add_column(label, justify="right")
    for name, scores in runs.items():
        table.add_row(Text(name), *(Text(cell(scores.get(metric))) for metric, _ in METRICS))
    return table


def sweep_chart(runs: Mapping[str, Mapping[str, Score]]) -> str:
    """One panel a metric: the policy's mean with its interval, for each run, as SVG text. A run
    without a value leaves a gap.
    """

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(METRICS), 1, sharex=True)
        for axes, (metric, label) in zip(panels, METRICS, strict=True):
            known = [
                (index, scores[metric])
                for index, scores in enumerate(runs.values())
                if metric in scores and scores[metric].mean is not None
            ]
            scale = 100 if is_share(metric) else 1
            for index, score in known:
                mean = scale * (score.mean or 0.0)
                low, high = (
                    mean if end is None else scale * end for end in (score.ci_low, score.ci_high)
                )
                spread = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
                axes.errorbar([index], [mean], yerr=spread, fmt="o", color=BLUE, capsize=3)
            axes.set_ylabel(f"{label}, %" if scale == 100 else label, fontsize=8)
            axes.grid(alpha=0.2, color=INK, linewidth=0.6)
        panels[-1].set_xticks(range(len(runs)), [short(name) for name in runs], rotation=20)
        panels[-1].set_xlim(-0.5, len(runs) - 0.5)
        figure.align_ylabels()

    return svg(draw, "The policies of a sweep", height=1.9 * len(METRICS))


def sweep_page(title: str, runs: Mapping[str, Mapping[str, Score]]) -> str:
    """The chart and the table as one HTML page that loads nothing."""
    heads = "".join(f"<th>{html.escape(label)}</th>" for _, label in METRICS)
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{html.escape(_shown(scores.get(metric)))}</td>" for metric, _ in METRICS)
        + "</tr>\n"
        for name, scores in runs.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; }}
div {{ overflow-x: auto; }}
td, th {{ padding: .2rem .7rem; text-align: right; font-weight: normal; }}
tr :first-child {{ text-align: left; }}
svg {{ max-width: 100%; }}
</style></head><body>
<h1>{html.escape(title)}</h1>
{sweep_chart(runs)}
<div><table><thead><tr><th>run</th>{heads}</tr></thead>
<tbody>{rows}</tbody></table></div>
<p>Of the policy on the held-out prompts. Mean [95 % interval], n replies.</p>
</body></html>
"""


def _shown(score: Score | None) -> str:
    return UNKNOWN if score is None else cell(score)
