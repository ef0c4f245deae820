"""Balance between groups of prompts: weights that follow how often their responses fail."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from cai.errors import TrainError
from cai.records import Prompt
from cai.train.ppo.config import BalanceConfig
from cai.train.ppo.prompt_sampler import group_of
from cai.train.ppo.reward_table import ScoredRollouts

FULL_STEP = 0.5
"""A group with this much more of its way left than the average gets a full step."""
SHORTEST_WAY = 0.05
"""The way from start to target counts as this long at least: a rate that begins at its target
does not divide by zero.
"""


@dataclass(frozen=True)
class Balance:
    """The weight of each group's advantages. Immutable: `updated` gives the next one.

    A group that has more of the way from its first rate of failures to its target left than the
    groups have on average gains weight, one with less of it loses weight (dual ascent on the
    logarithm of a multiplier, arXiv:2310.12773, eq. 12). Only ratios of weights matter, as
    advantages are scaled: so it is the average, and not 0, that groups are compared with. Measured
    from its start, a group that seldom fails is not given up for one that fails often.

        failures  <- smoothing * failures + (1 - smoothing) * new rate
        remaining =  (failures - target) / max(start - target, 0.05)
        log w     <- log w + step * clip((remaining - mean remaining) / 0.5, -1, 1)
    """

    failures: Mapping[str, float] = field(default_factory=dict)
    """Running rate by group; a group without any graded response is missing."""
    log_weights: Mapping[str, float] = field(default_factory=dict)
    start: Mapping[str, float] = field(default_factory=dict)
    """Each group's first rate."""

    def weights(self, config: BalanceConfig) -> dict[str, float]:
        """Weight by group; their mean is 1, so that the size of a step does not grow."""
        raw = {name: math.exp(self.log_weights.get(name, 0.0)) for name in config.targets}
        return {name: weight / fmean(raw.values()) for name, weight in raw.items()}

    def updated(self, rates: Mapping[str, float], config: BalanceConfig) -> Balance:
        """The balance after groups failed at these `rates`."""
        start, failures = {**rates, **self.start}, dict(self.failures)
        for name, rate in rates.items():
            past = failures.get(name, rate)
            failures[name] = config.smoothing * past + (1 - config.smoothing) * rate
        remaining = remaining_way(failures, start, config.targets)
        log_weights, limit = dict(self.log_weights), math.log(config.max_weight)
        for name in rates:
            lead = (remaining[name] - fmean(remaining.values())) / FULL_STEP
            moved = log_weights.get(name, 0.0) + config.step * max(-1.0, min(1.0, lead))
            log_weights[name] = max(-limit, min(limit, moved))
        return Balance(failures, log_weights, start)

    def rollout_weights(self, prompts: Sequence[Prompt], config: BalanceConfig) -> list[float]:
        """One weight per prompt; 1 for a prompt of no group."""
        weights = self.weights(config)
        return [weights.get(group_of(prompt, weights) or "", 1.0) for prompt in prompts]


def remaining_way(
    failures: Mapping[str, float], start: Mapping[str, float], targets: Mapping[str, float]
) -> dict[str, float]:
    """Part of the way from a group's first rate of failures to its target that is left: 1 at the
    start, 0 at the target, negative below it.
    """
    return {
        name: (rate - targets[name]) / max(start[name] - targets[name], SHORTEST_WAY)
        for name, rate in failures.items()
    }


def failure_rates(scored: ScoredRollouts, config: BalanceConfig) -> dict[str, float]:
    """Share of each group's responses, of those with a known reward, that fail.

    Raises:
        TrainError: there are targets, and the reward has no such part to tell failures by.
    """
    if not config.targets:
        return {}
    part = scored.table.get(config.part)
    if part is None:
        raise TrainError(
            f"ppo.balance.part: {config.part}: the reward has no such part, only "
            f"{', '.join(scored.table)}: name one of these, or leave out balance.targets"
        )
    outcomes: defaultdict[str, list[float]] = defaultdict(list)
    for i in scored.known_indices:
        group, value = group_of(scored.rollouts[i].prompt, config.targets), part[i]
        if group in config.targets and value is not None:
            outcomes[str(group)].append(float(value < 0))
    return {name: fmean(values) for name, values in outcomes.items()}


def balance_metrics(
    balance: Balance, scored: ScoredRollouts, config: BalanceConfig
) -> dict[str, float]:
    """The weights that an update uses, and how often its responses fail."""
    weights = balance.weights(config) if config.targets else {}
    rates = failure_rates(scored, config)
    return {f"weight.{name}": weight for name, weight in weights.items()} | {
        f"failures.{name}": rate for name, rate in rates.items()
    }
