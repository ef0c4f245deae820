"""What the evaluation measures with a run's other models: rewards of replies, and the policy's KL
from its reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cai.artifacts import POLICY, SFT
from cai.evals.refusal import answered
from cai.pipeline.context import RunContext
from cai.records import EvalReply, KLReply, Prompt
from cai.reward.composite import weighted

if TYPE_CHECKING:
    from cai.modeling.tokenization import Renderer


def measure_policy_kl(ctx: RunContext, prompts: Sequence[Prompt]) -> list[KLReply]:
    """A response of the policy to each prompt at temperature 1, and one at that of PPO's rollouts,
    each with its exact KL from the reference of PPO at the same temperature.
    """
    from cai.modeling.loading import load_model
    from cai.modeling.model_files import training_weights
    from cai.modeling.tokenization import load_renderer
    from cai.train.ppo.policy_kl import measure_kl

    run = ctx.run
    reference = training_weights(run.model) if run.ppo.reference == "base" else str(ctx.path(SFT))
    renderer = load_renderer(str(ctx.path(SFT)))
    models = load_model(str(ctx.path(POLICY))), load_model(reference)
    temperatures = list(dict.fromkeys((1.0, run.ppo.rollout.temperature)))
    progress = ctx.progress("eval kl")
    rows: list[KLReply] = []
    for count, temperature in enumerate(temperatures, start=1):
        settings = {"temperature": temperature, "max_new_tokens": run.eval.max_tokens}
        config = run.ppo.rollout.model_copy(update=settings)
        rows += measure_kl(models, renderer, prompts, config, ctx.seed)
        progress(count, len(temperatures))
    return rows


def add_rewards(ctx: RunContext, replies: Sequence[EvalReply]) -> list[EvalReply]:
    """The replies with the preference model's score, and with every part of the run's reward. Both
    stay None for a prompt without an answer, and for one that does not fit the model's window with
    its reply.
    """
    from cai.modeling.loading import window_of
    from cai.modeling.tokenization import load_renderer
    from cai.pipeline.reward import load_preference_model, load_reward, reference_base

    run, weights = ctx.run, str(ctx.path(SFT))
    renderer, base = load_renderer(weights), reference_base(ctx)
    scored = [r for r in replies if _can_be_scored(r, renderer, window_of(base.config))]
    progress = ctx.progress("eval reward")
    reward = load_reward(ctx, base)
    scorers = reward.scorers
    model = scorers.preference_model or load_preference_model(ctx, base)
    # a published model may have a shorter window than the policy
    scores = model.score_within_window([model.rows(r.chat, r.response) for r in scored])
    progress(1, 2)
    # its part needs no second pass of the preference model
    prompts = [Prompt(chat=r.chat, kind=r.kind, category=r.category) for r in scored]
    others = replace(reward, scorers=replace(scorers, preference_model=None))
    table = others(prompts, [r.response for r in scored], [r.finished for r in scored])
    if scorers.preference_model is not None:
        table = {"pm": weighted(scores, run.reward_weights.pm)} | table
    if penalty := run.ppo.rollout.missing_eos_penalty:
        table["missing_eos"] = [0.0 if r.finished else -penalty for r in scored]
    progress(2, 2)
    updates = {
        r.id: {"reward": score, "reward_parts": {name: part[i] for name, part in table.items()}}
        for i, (r, score) in enumerate(zip(scored, scores, strict=True))
    }
    return [r.model_copy(update=updates.get(r.id)) for r in replies]


def _can_be_scored(reply: EvalReply, renderer: Renderer, window: int) -> bool:
    """Whether there is a reply, and a model takes it with its prompt."""
    tokens = renderer.prompt_ids(reply.chat) + renderer.response_ids(reply.response)
    return answered(reply) and len(tokens) <= window
