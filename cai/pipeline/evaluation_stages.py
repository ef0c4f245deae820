"""Stages that measure: evaluation of base, SFT and policy, and the report."""

from __future__ import annotations

from collections.abc import Sequence

from cai import store
from cai.artifacts import (
    EVAL,
    EVALUATION_SCORES,
    FINISHED_WITH,
    HELD_OUT,
    KL_REPLIES,
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
from cai.evals.headline_changes import comparisons
from cai.evals.refusal import refusal_scores
from cai.evals.replies import Graders, item_id, prompt_draws, reply_step
from cai.generate.unanswered import set_unanswered_aside
from cai.pipeline.context import RunContext, load_rows
from cai.pipeline.listed_evaluations import listed_scores
from cai.pipeline.reply_rewards import add_rewards, measure_policy_kl
from cai.pipeline.subject_comparisons import comparison_scores
from cai.records import EvalReply, Prompt, PromptDraw
from cai.report.html import write_report
from cai.report.model_cards import write_model_cards


def evaluate(ctx: RunContext) -> None:
    """What base, SFT and policy reply to held-out prompts, how they do in the evaluations that
    the run lists, and how they compare with other models.
    """
    _evaluate_replies(ctx)
    evaluate_others(ctx)


def evaluate_others(ctx: RunContext) -> None:
    """75-evaluations.jsonl: scores of the listed evaluations, and of comparisons by the judge.

    They follow from rows that are kept, and are written anew each time.
    """
    if not ctx.run.evaluations and not ctx.run.eval.subjects:
        return
    scores = listed_scores(ctx) + comparison_scores(ctx)
    store.atomic_write(
        ctx.path(EVALUATION_SCORES), "".join(score.line() + "\n" for score in scores)
    )


def _evaluate_replies(ctx: RunContext) -> None:
    """70-replies.jsonl and 70-scores.jsonl: base, SFT and policy on held-out prompts."""
    from cai.graders.guard import guard_fingerprint, open_guard
    from cai.train.ppo.policy_kl import kl_scores

    run, out = ctx.run, ctx.path(SCORES)
    fingerprint = ctx.lm(run.model).fingerprint
    inputs = [HELD_OUT, SFT, REWARD, POLICY]
    answers = ctx.answer_settings(run.model)
    spec, guideline = run.eval.guard, run.eval.guideline
    if spec is not None:
        answers = answers | {"guard": guard_fingerprint(spec, guideline)}
    provenance = ctx.provenance(
        run.eval.of_replies, inputs, ("rubric",), model=fingerprint, **answers
    )
    finished = ctx.begin(out, "eval", provenance)
    if finished and not ctx.reopen_unanswered(out, "eval", provenance):
        return
    held_out = load_rows(ctx.path(HELD_OUT), Prompt)
    draws = prompt_draws(subsample(held_out, run.eval.prompts, ctx.seed, "eval"), run.eval.draws)
    ctx.path(EVAL).mkdir(exist_ok=True)
    graders = Graders(ctx.rubric, None if spec is None else open_guard(spec, guideline))
    replies: list[EvalReply] = []
    for subject in SUBJECTS:
        replies += _subject_replies(ctx, subject, draws, graders)
    drawn = [draw.prompt for draw in draws]
    rewarded = {p.id: p for p in subsample(drawn, run.eval.reward_prompts, ctx.seed, "reward")}
    kl_replies = measure_policy_kl(ctx, list(rewarded.values()))
    store.atomic_write(ctx.path(KL_REPLIES), "".join(row.line() + "\n" for row in kl_replies))
    with_rewards = iter(add_rewards(ctx, [r for r in replies if r.source in rewarded]))
    measured = [next(with_rewards) if r.source in rewarded else r for r in replies]
    store.atomic_write(ctx.path(REPLIES), "".join(reply.line() + "\n" for reply in measured))
    scores = refusal_scores(measured, seed=run.seed, rewarded=rewarded)
    scores += kl_scores(kl_replies) + comparisons(measured)
    store.atomic_write(out, "".join(score.line() + "\n" for score in scores))
    nulls = ctx.record_nulls("eval", [reply.grade.unscored for reply in measured])
    counts = {"replies": len(measured), "scores": len(scores), **nulls}
    if without_kind := sum(reply.kind is None for reply in measured):
        counts["without_kind"] = without_kind  # metrics of refusals leave them out
    store.finish_artifact(out, ctx.path(REPLIES), **counts)


def _subject_replies(
    ctx: RunContext, subject: str, draws: Sequence[PromptDraw], graders: Graders
) -> list[EvalReply]:
    """Replies of one subject, which leaves memory again before the next is loaded."""
    folder, out = SUBJECTS[subject], ctx.path(EVAL) / f"{subject}.jsonl"
    lm = ctx.lm(f"local:{ctx.path(folder)}" if folder else ctx.run.model)
    step = reply_step(subject, lm, graders, ctx.run.eval, ctx.seed)
    set_unanswered_aside(out, EvalReply)
    ctx.map_rows(lm, out, draws, step, EvalReply, f"eval {subject}", source=item_id)
    del lm, step
    ctx.close_models()
    return load_rows(out, EvalReply)


def report(ctx: RunContext) -> None:
    """report.html and the cards of the models, from the files alone."""
    for name in (PROMPTS, REVISIONS, PREFERENCES, REWARD, POLICY, REPLIES, SCORES):
        recorded = ctx.path(FINISHED_WITH.get(name, name))
        manifest = store.read_manifest(recorded)
        if manifest is not None and manifest.finished:
            store.check_content(recorded, manifest, name)
    write_model_cards(ctx.resolved.folder)
    write_report(ctx.resolved.folder)
