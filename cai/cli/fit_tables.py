"""Tables about the fit of a rubric's weights: pairwise error rates, and rewards by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from cai.report.formats import estimate_text

if TYPE_CHECKING:
    from cai.rubric.fit_weights import Ranked

BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class BehaviourFit:
    """The fitted weights of one behaviour, and the replies to report on."""

    behaviour: str
    rows: Sequence[Ranked]
    held_out: bool
    """The weights were not fitted on `rows`."""
    before: dict[str, float]
    """Weights in the rubric."""
    after: dict[str, float]
    """Fitted weights."""
    scale: float
    """Divisor of the preference model's rewards."""


def errors_table(fit: BehaviourFit) -> Table:
    """Share of pairs that each reward orders wrongly, and how much the fit changed it."""
    from cai.rubric.fit_weights import pair_errors
    from cai.statistics.estimates import estimate
    from cai.statistics.paired import paired_difference

    rows, scale = fit.rows, fit.scale
    by_reward = {
        "rubric as it was": pair_errors(rows, fit.before, scale, "rubric"),
        "rubric": pair_errors(rows, fit.after, scale, "rubric"),
    }
    base, best = "rubric as it was", "rubric"
    if rows and all(row.reward is not None for row in rows):
        by_reward = {
            "rm": pair_errors(rows, fit.after, scale, "rm"),
            **by_reward,
            "rm+rubric": pair_errors(rows, fit.after, scale, "rm+rubric"),
        }
        base, best = "rm", "rm+rubric"
    split = "held-out" if fit.held_out else "training"
    title = f"{fit.behaviour}: {split} pairs"
    table = Table("reward", "pairs in the wrong order", title=title)
    for name, pairs in by_reward.items():
        prompts, values = [prompt for prompt, _ in pairs], [error for _, error in pairs]
        metric = f"fit.error.{fit.behaviour}"
        score = estimate(metric, name, values, prompts, proportion=True)
        table.add_row(name, estimate_text(score, ".1%"))
    if by_reward[best]:
        difference = paired_difference(
            [error for _, error in by_reward[best]],
            [error for _, error in by_reward[base]],
            [prompt for prompt, _ in by_reward[best]],
            proportion=True,
        )
        bounds = f"[{_points(difference.ci_low)}, {_points(difference.ci_high)}]"
        table.caption = f"{best} against {base}: {_points(difference.mean)} {bounds}"
    return table


def rewards_table(fit: BehaviourFit, classes: Sequence[str]) -> Table:
    """A histogram of rewards per class, from the lowest reward of all replies to the highest.

    Args:
        fit: the fit.
        classes: name of the class of each of `fit.rows`.
    """
    from cai.rubric.fit_weights import score

    has_reward = bool(fit.rows) and fit.rows[0].reward is not None
    parts = "rm+rubric" if has_reward else "rubric"
    rewards: dict[str, list[float]] = {}
    for name, row in zip(classes, fit.rows, strict=True):
        reward = score(row, fit.after, fit.scale, parts)
        rewards.setdefault(name, []).append(reward)
    all_rewards = [reward for values in rewards.values() for reward in values]
    low, high = min(all_rewards, default=0.0), max(all_rewards, default=0.0)
    title = f"{fit.behaviour}: reward by class ({parts})"
    table = Table("class", "n", "mean", f"{low:.2f} … {high:.2f}", title=title)
    for name, values in rewards.items():
        mean = sum(values) / len(values)
        table.add_row(name, str(len(values)), f"{mean:.2f}", _histogram(values, low, high))
    return table


def _histogram(values: Sequence[float], low: float, high: float, bins: int = 20) -> str:
    counts = [0] * bins
    for value in values:
        position = int((value - low) / (high - low) * bins) if high > low else 0
        counts[min(bins - 1, position)] += 1
    highest = max(counts)
    return "".join(_bar(count, highest) for count in counts)


def _bar(count: int, highest: int) -> str:
    return " " if count == 0 else BARS[min(len(BARS) - 1, len(BARS) * count // highest)]


def _points(value: float | None) -> str:
    """A difference of shares in percentage points."""
    return "–" if value is None else f"{100 * value:+.1f} points"
