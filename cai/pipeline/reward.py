"""The reward that a run's policy learns from: preference model, rubric, rating and penalties, by
the run's own weights.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cai.artifacts import REWARD, SFT
from cai.pipeline.context import RunContext
from cai.records import Prompt
from cai.reward.composite import RewardWeights, reward_parts
from cai.reward.direct_rlaif import Rate, batch_rater
from cai.reward.preference_model import ADAPTER, PreferenceModel
from cai.rubric import CompiledRubric

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class RunReward:
    """(prompts, replies) -> part of the reward -> one value a reply; None: unknown."""

    preference_model: PreferenceModel | None
    rubric: CompiledRubric
    weights: RewardWeights
    rate: Rate | None

    def __call__(
        self,
        prompts: Sequence[Prompt],
        replies: Sequence[str],
        finished: Sequence[bool] | None = None,
    ) -> dict[str, list[float | None]]:
        return reward_parts(
            prompts,
            replies,
            self.preference_model,
            self.rubric,
            self.weights,
            self.rate,
            finished,
        )


def load_preference_model(ctx: RunContext, base: PeftModel | None = None) -> PreferenceModel:
    """The run's preference model, as an adapter on `base`; without one, on the fine-tuned model,
    which is loaded for it.
    """
    from cai.modeling.loading import load_model
    from cai.modeling.lora import with_adapter
    from cai.modeling.tokenization import load_renderer

    folder, config = str(ctx.require(SFT)), ctx.run.reward
    if base is None:
        base = with_adapter(
            load_model(folder), ADAPTER, config.lora_rank, config.num_trainable_layers
        )
    return PreferenceModel.load(base, load_renderer(folder), ctx.require(REWARD))


def _is_better_than_a_constant(ctx: RunContext) -> bool:
    """Whether the preference model's log loss on held-out pairs is below ln 2, that of always
    saying 1/2. One that is not would add noise to the reward: it is left out, which a line on
    standard error says. It stays where nothing is known, for want of held-out pairs, and where
    it is the only judge or the critic's beginning.
    """
    metrics = json.loads((ctx.require(REWARD) / "metrics.json").read_text(encoding="utf-8"))
    log_loss = metrics["log_loss"]["mean"]
    weights = ctx.run.reward_weights
    needed = ctx.run.ppo.critic == "reward" or not (weights.rubric or weights.direct)
    if log_loss is None or log_loss < math.log(2) or needed:
        return True
    print(
        f"reward: the preference model is left out: its log loss on held-out pairs, {log_loss:.3f}"
        f" nats, is no better than the {math.log(2):.3f} of a constant",
        file=sys.stderr,
    )
    return False


def load_reward(ctx: RunContext, base: PeftModel | None = None) -> RunReward:
    """The parts that the run's `reward_weights` ask for, loaded. `base`: see
    `load_preference_model`.
    """
    run = ctx.run
    wants_model = bool(run.reward_weights.pm) and _is_better_than_a_constant(ctx)
    preference_model = load_preference_model(ctx, base) if wants_model else None
    rate = batch_rater(ctx.lm(run.judge or run.model)) if run.reward_weights.direct else None
    return RunReward(preference_model, ctx.rubric, run.reward_weights, rate)
