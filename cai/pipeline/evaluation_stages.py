"""Stages that measure: evaluation of base, SFT and policy, and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cai import store
from cai.artifacts import (
    EVAL,
    FINISHED_WITH,
    HELD_OUT,
    POLICY,
    PREFERENCES,
    PROMPTS,
    REPLIES,
    REVISIONS,
    REWARD,
    SCORES,
    SFT,
    SUBJECTS,
)
from cai.data.split import subsample
from cai.evals.comparisons import comparisons
from cai.evals.refusal import answered, refusal_scores
from cai.evals.replies import item_id, prompt_draws, reply_step
from cai.generate.unanswered import set_unanswered_aside
from cai.pipeline.context import RunContext, load_rows
from cai.records import EvalReply, Prompt, PromptDraw
from cai.report.html import write_report

if TYPE_CHECKING:
    from cai.modeling.tokenization import Renderer


def evaluate(ctx: RunContext) -> None:
    """70-replies.jsonl and 70-scores.jsonl: base, SFT and policy on held-out prompts."""
    run, out = ctx.run, ctx.path(SCORES)
    fingerprint = ctx.lm(run.model).fingerprint
    inputs = [HELD_OUT, SFT, REWARD, POLICY]
    answers = ctx.answer_settings(run.model)
    provenance = ctx.provenance(run.eval, inputs, ("rubric",), model=fingerprint, **answers)
    finished = ctx.begin(out, "eval", provenance)
    if finished and not ctx.reopen_unanswered(out, "eval", provenance):
        return
    held_out = load_rows(ctx.path(HELD_OUT), Prompt)
    draws = prompt_draws(subsample(held_out, run.eval.prompts, ctx.seed, "eval"), run.eval.draws)
    ctx.path(EVAL).mkdir(exist_ok=True)
    replies: list[EvalReply] = []
    for subject in SUBJECTS:
        replies += _subject_replies(ctx, subject, draws)
    drawn = [draw.prompt for draw in draws]
    rewarded = {p.id for p in subsample(drawn, run.eval.reward_prompts, ctx.seed, "reward")}
    with_rewards = iter(_add_rewards(ctx, [r for r in replies if r.source in rewarded]))
    measured = [next(with_rewards) if r.source in rewarded else r for r in replies]
    store.atomic_write(ctx.path(REPLIES), "".join(reply.line() + "\n" for reply in measured))
    scores = refusal_scores(measured, seed=run.seed, rewarded=rewarded)
    scores += comparisons(measured)
    store.atomic_write(out, "".join(score.line() + "\n" for score in scores))
    nulls = ctx.record_nulls("eval", [reply.grade.unscored for reply in measured])
    counts = {"replies": len(measured), "scores": len(scores), **nulls}
    if without_kind := sum(reply.kind is None for reply in measured):
        counts["without_kind"] = without_kind  # metrics of refusals leave them out
    store.finish_artifact(out, ctx.path(REPLIES), **counts)


def _subject_replies(ctx: RunContext, subject: str, draws: Sequence[PromptDraw]) -> list[EvalReply]:
    """Replies of one subject, which leaves memory again before the next is loaded."""
    folder, out = SUBJECTS[subject], ctx.path(EVAL) / f"{subject}.jsonl"
    lm = ctx.lm(f"local:{ctx.path(folder)}" if folder else ctx.run.model)
    step = reply_step(subject, lm, ctx.rubric, ctx.run.eval, ctx.seed)
    set_unanswered_aside(out, EvalReply)
    ctx.map_rows(lm, out, draws, step, EvalReply, f"eval {subject}", source=item_id)
    del lm, step
    ctx.close_models()
    return load_rows(out, EvalReply)


def _add_rewards(ctx: RunContext, replies: Sequence[EvalReply]) -> list[EvalReply]:
    """The replies with their preference-model reward, and those of the policy with their log-ratio
    to the reference. Both stay None for a prompt without an answer, and for one that does not fit
    the model's window with its reply.
    """
    from cai.modeling.loading import load_model, window_of
    from cai.modeling.lora import with_adapter
    from cai.modeling.tokenization import load_renderer
    from cai.pipeline.reward import load_preference_model
    from cai.reward.preference_model import ADAPTER
    from cai.train.ppo.rollout import text_logprobs

    run, weights = ctx.run, str(ctx.path(SFT))
    renderer, reference = load_renderer(weights), load_model(weights)
    scored = [r for r in replies if _can_be_scored(r, renderer, window_of(reference.config))]
    of_policy = [(r.chat, r.response, r.finished) for r in scored if r.subject == "policy"]
    temperature = run.eval.temperature or 1.0
    progress = ctx.progress("eval reward and kl")
    policy_logps = text_logprobs(
        load_model(str(ctx.path(POLICY))), renderer, of_policy, temperature
    )
    progress(1, 3)
    reference_logps = text_logprobs(reference, renderer, of_policy, temperature)
    log_ratios = iter([a - b for a, b in zip(policy_logps, reference_logps, strict=True)])
    progress(2, 3)
    base = with_adapter(reference, ADAPTER, run.reward.lora_rank, run.reward.num_trainable_layers)
    model = load_preference_model(ctx, base)
    rewards = model.score([model.rows(r.chat, r.response) for r in scored])
    progress(3, 3)
    updates = {
        r.id: {"reward": reward, "kl": next(log_ratios) if r.subject == "policy" else None}
        for r, reward in zip(scored, rewards, strict=True)
    }
    return [r.model_copy(update=updates.get(r.id)) for r in replies]


def _can_be_scored(reply: EvalReply, renderer: Renderer, window: int) -> bool:
    """Whether there is a reply, and a model takes it with its prompt."""
    tokens = renderer.prompt_ids(reply.chat) + renderer.response_ids(reply.response)
    return answered(reply) and len(tokens) <= window


def report(ctx: RunContext) -> None:
    """report.html, from the files alone."""
    for name in (PROMPTS, REVISIONS, PREFERENCES, REWARD, POLICY, REPLIES, SCORES):
        recorded = ctx.path(FINISHED_WITH.get(name, name))
        manifest = store.read_manifest(recorded)
        if manifest is not None and manifest.finished:
            store.check_content(recorded, manifest, name)
    write_report(ctx.resolved.folder)
