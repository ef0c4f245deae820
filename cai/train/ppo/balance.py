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

FULL_STEP = 0.2
"""A group that fails this much more often than others do, targets taken off, gets a full step."""


@dataclass(frozen=True)
class Balance:
    """The weight of each group's advantages. Immutable: `updated` gives the next one.

    A group that exceeds its target by more than the groups do on average gains weight, one that
    exceeds it by less loses it (dual ascent on the logarithm of a multiplier, arXiv:2310.12773, eq.
    12). Only ratios of weights matter, as advantages are scaled: so it is the average, and not 0,
    that excesses are compared with.

        failures <- smoothing * failures + (1 - smoothing) * rate of this update
        excess   =  failures - target
        log w    <- log w + step * clip((excess - mean excess) / 0.2, -1, 1)
    """

    failures: Mapping[str, float] = field(default_factory=dict)
    """Running rate by group; a group without any graded response is missing."""
    log_weights: Mapping[str, float] = field(default_factory=dict)

    def weights(self, config: BalanceConfig) -> dict[str, float]:
        """Weight by group; their mean is 1, so that the size of a step does not grow."""
        raw = {name: math.exp(self.log_weights.get(name, 0.0)) for name in config.targets}
        return {name: weight / fmean(raw.values()) for name, weight in raw.items()}

    def updated(self, rates: Mapping[str, float], config: BalanceConfig) -> Balance:
        """The balance after an update in which groups failed at these `rates`."""
        failures, log_weights = dict(self.failures), dict(self.log_weights)
        limit = math.log(config.max_weight)
        for name, rate in rates.items():
            past = failures.get(name, rate)
            failures[name] = config.smoothing * past + (1 - config.smoothing) * rate
        excess = {name: rate - config.targets[name] for name, rate in failures.items()}
        for name in rates:
            lead = (excess[name] - fmean(excess.values())) / FULL_STEP
            moved = log_weights.get(name, 0.0) + config.step * max(-1.0, min(1.0, lead))
            log_weights[name] = max(-limit, min(limit, moved))
        return Balance(failures, log_weights)

    def rollout_weights(self, prompts: Sequence[Prompt], config: BalanceConfig) -> list[float]:
        """One weight per prompt; 1 for a prompt of no group."""
        weights = self.weights(config)
        return [weights.get(group_of(prompt, weights) or "", 1.0) for prompt in prompts]


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
