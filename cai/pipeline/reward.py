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

from cai.artifacts import PROMPTS, REWARD, SFT
from cai.data.split import subsample
from cai.errors import StoreError
from cai.pipeline.context import RunContext, load_rows
from cai.records import Prompt
from cai.reward.composite import RewardWeights, Scorers, reward_parts
from cai.reward.direct_rlaif import batch_rater
from cai.reward.preference_model import ADAPTER, PreferenceModel
from cai.reward.relevance import OTHERS, Relevance, relevance_scorer

if TYPE_CHECKING:
    from peft import PeftModel

    from cai.reward.published_model import PublishedModel


@dataclass(frozen=True)
class RunReward:
    """(prompts, replies) -> part of the reward -> one value a reply; None: unknown."""

    scorers: Scorers
    weights: RewardWeights

    def __call__(
        self,
        prompts: Sequence[Prompt],
        replies: Sequence[str],
        finished: Sequence[bool] | None = None,
    ) -> dict[str, list[float | None]]:
        return reward_parts(prompts, replies, self.scorers, self.weights, finished)


def reference_base(ctx: RunContext) -> PeftModel:
    """The fine-tuned model, with room for the preference model's adapter."""
    from cai.modeling.loading import load_frozen
    from cai.modeling.lora import with_adapter

    config = ctx.run.reward
    model = load_frozen(str(ctx.require(SFT)))
    return with_adapter(model, ADAPTER, config.lora_rank, config.num_trainable_layers)


def load_preference_model(
    ctx: RunContext, base: PeftModel | None = None
) -> PreferenceModel | PublishedModel:
    """The run's preference model, as an adapter on `base`; without one, on the fine-tuned model,
    which is loaded for it. One whose every weight was trained needs neither. Or the published model
    that the run names.
    """
    from cai.modeling.tokenization import load_renderer
    from cai.reward.published_model import load_saved_model

    if ctx.run.reward_model is not None:
        return load_saved_model(ctx.require(REWARD))
    if ctx.run.reward.mode == "full":
        return PreferenceModel.load_full(ctx.require(REWARD))
    renderer = load_renderer(str(ctx.require(SFT)))
    return PreferenceModel.load(base or reference_base(ctx), renderer, ctx.require(REWARD))


def _is_better_than_a_constant(ctx: RunContext) -> bool:
    """Whether the preference model's log loss on held-out pairs is below ln 2, that of always
    saying 1/2. One that is not would add noise to the reward: it is left out, which a line on
    standard error says. It stays where nothing is known, for want of held-out pairs, and where
    it is the only judge or the critic's beginning, and where the run names it (`reward_model`).
    """
    if ctx.run.reward_model is not None:
        return True
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
    """The parts that the run's `reward_weights` ask for, loaded.

    Args:
        base: the fine-tuned model with its adapters; None: it is loaded where a part needs it.
    """
    run, weights = ctx.run, ctx.run.reward_weights
    wants_model = bool(weights.pm) and _is_better_than_a_constant(ctx)
    adapted = run.reward_model is None and run.reward.mode == "lora"
    if base is None and ((wants_model and adapted) or weights.relevance):
        base = reference_base(ctx)
    scorers = Scorers(
        preference_model=load_preference_model(ctx, base) if wants_model else None,
        rubric=ctx.rubric,
        rate=batch_rater(ctx.lm(run.judge or run.model)) if weights.direct else None,
        relevance=_relevance(ctx, base) if weights.relevance and base is not None else None,
    )
    return RunReward(scorers, weights)


def _relevance(ctx: RunContext, base: PeftModel) -> Relevance:
    """Replies are compared with the same few training prompts, whatever else is in their batch."""
    from cai.modeling.tokenization import load_renderer

    prompts: list[Prompt] = load_rows(ctx.require(PROMPTS), Prompt)
    others = subsample(prompts, OTHERS + 1, ctx.seed, "relevance")
    if len(others) <= OTHERS:
        raise StoreError(
            f"{ctx.path(PROMPTS)}: reward_weights.relevance compares a reply with {OTHERS} other "
            "prompts, and there are too few: set it to 0, or add prompts"
        )
    renderer = load_renderer(str(ctx.require(SFT)))
    return relevance_scorer(base, renderer, [prompt.chat for prompt in others])
