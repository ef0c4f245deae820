"""Comparisons of base, SFT, policy and the run's named subjects: their replies to the same prompts,
judged in both orders, and rated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from cai import store, templates
from cai.artifacts import EVALUATIONS, HELD_OUT, REPLIES, SUBJECTS
from cai.data.split import subsample
from cai.data.turns import read_turns
from cai.errors import is_passing
from cai.evals.elo import elo_scores
from cai.evals.judged_pairs import (
    COMPARISON_LABEL,
    ComparisonItem,
    JudgedPair,
    SubjectReply,
    comparison_id,
    comparison_items,
    comparison_step,
    reply_id,
    subject_reply,
    subject_step,
    with_turns,
)
from cai.evals.replies import EvalConfig, prompt_draws
from cai.generate.label import labeller
from cai.generate.row_reuse import set_aside
from cai.generate.unanswered import set_unanswered_aside
from cai.pipeline.context import RunContext, load_rows
from cai.records import Chat, EvalReply, Prompt, PromptDraw, Score, chat_of

ELO = "elo"
"""Folder of the replies and verdicts, in that of the other evaluations."""
Replies = dict[str, dict[str, SubjectReply]]
"""Subject -> `PromptDraw.id` -> reply."""


def comparison_scores(ctx: RunContext) -> list[Score]:
    """Ratings and win rates; none where the run names no subject.

    75-evaluations/elo/replies/NAME.jsonl has a named subject's replies, and
    75-evaluations/elo/comparisons/FIRST/SECOND.jsonl the verdicts on two subjects. What is there is
    not made again.
    """
    if not ctx.run.eval.subjects:
        return []
    draws = compared_draws(load_rows(ctx.path(HELD_OUT), Prompt), ctx.run.eval, ctx.seed)
    replies = _run_replies(ctx, draws)
    for name in ctx.run.eval.subjects:
        replies[name] = _named_replies(ctx, name, draws)
    rows: list[JudgedPair] = []
    for first, second in combinations(replies, 2):
        items = comparison_items(draws, {name: replies[name] for name in (first, second)})
        rows += _verdicts(ctx, (first, second), items)
    ctx.close_models()
    return elo_scores(rows, list(replies), seed=ctx.seed)


def compared_draws(held_out: Sequence[Prompt], config: EvalConfig, seed: int) -> list[PromptDraw]:
    """What the subjects answer: prompts of the evaluation, with its draws."""
    evaluated = subsample(held_out, config.prompts, seed, "eval")
    return prompt_draws(
        subsample(evaluated, config.compared_prompts, seed, "compare"), config.draws
    )


def turns_of(ctx: RunContext, name: str) -> Chat:
    """What a named subject begins with: its system turn, then the turns of its file."""
    system = ctx.run.eval.subjects[name].system
    turns = () if system is None else chat_of(("system", system))
    file = ctx.resolved.subject_turns.get(name)
    return turns if file is None else with_turns(turns, read_turns(file))


def _run_replies(ctx: RunContext, draws: Sequence[PromptDraw]) -> Replies:
    """Those of base, SFT and policy, which the evaluation has sampled already."""
    compared = {draw.id for draw in draws}
    replies: Replies = {name: {} for name in SUBJECTS}
    for row in load_rows(ctx.path(REPLIES), EvalReply):
        reply = subject_reply(row)
        if reply_id(reply) in compared:
            replies[row.subject][reply_id(reply)] = reply
    return replies


def _named_replies(
    ctx: RunContext, name: str, draws: Sequence[PromptDraw]
) -> dict[str, SubjectReply]:
    """Replies of one named subject, which leaves memory again before the next is loaded."""
    config, subject = ctx.run.eval, ctx.run.eval.subjects[name]
    spec, stage = subject.model or ctx.run.model, f"eval {ELO} {name}"
    turns = turns_of(ctx, name)
    out = ctx.path(EVALUATIONS) / ELO / "replies" / f"{name}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    lm = ctx.lm(spec)
    provenance = ctx.provenance(
        config.of_replies,
        [HELD_OUT],
        model=lm.fingerprint,
        turns=store.digest(*turns),
        compared=store.digest(*(draw.id for draw in draws)),
        **ctx.answer_settings(spec),
    )
    if not ctx.begin(out, stage, provenance) or ctx.reopen_unanswered(out, stage, provenance):
        set_unanswered_aside(out, SubjectReply)
        step = subject_step(name, lm, turns, config, ctx.seed)
        ctx.map_rows(lm, out, draws, step, SubjectReply, stage, source=reply_id)
        rows: list[SubjectReply] = load_rows(out, SubjectReply)
        nulls = ctx.record_nulls(stage, [row.unanswered for row in rows])
        store.finish_artifact(out, replies=len(rows), **nulls)
    ctx.close_models()
    return {reply_id(row): row for row in load_rows(out, SubjectReply)}


def _verdicts(
    ctx: RunContext, subjects: tuple[str, str], items: Sequence[ComparisonItem]
) -> list[JudgedPair]:
    """The judge's verdicts on two subjects. One on a reply that is another now is made anew."""
    first, second = subjects
    out = ctx.path(EVALUATIONS) / ELO / "comparisons" / first / f"{second}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    stage, spec = f"eval {ELO} {first} {second}", ctx.run.judge or ctx.run.model
    judge = ctx.lm(spec)
    provenance = ctx.provenance(
        COMPARISON_LABEL,
        [],
        judge=judge.fingerprint,
        templates=templates.templates_digest(),
        **ctx.answer_settings(spec),
    )
    finished, current = ctx.begin(out, stage, provenance), {item.id for item in items}
    if not finished or not _are_complete(out, current):
        store.claim_artifact(out, stage, provenance)
        set_aside(
            out,
            JudgedPair,
            lambda row: comparison_id(row) in current and not is_passing(row.unscored),
            keep_stale=False,
        )
        _compare(ctx, spec, items, out, stage)
    by_id = {comparison_id(row): row for row in load_rows(out, JudgedPair)}
    return [by_id[item.id] for item in items]


def _are_complete(out: Path, current: set[str]) -> bool:
    """Whether the file has a verdict, or a lasting reason for none, on exactly these items."""
    rows: list[JudgedPair] = load_rows(out, JudgedPair)
    is_asked_again = any(is_passing(row.unscored) for row in rows)
    return {comparison_id(row) for row in rows} == current and not is_asked_again


def _compare(
    ctx: RunContext, spec: str, items: Sequence[ComparisonItem], out: Path, stage: str
) -> None:
    judge = ctx.lm(spec)
    label = labeller(ctx.constitution, judge, COMPARISON_LABEL, ctx.seed, lambda pair: (None, None))
    step = comparison_step(label)
    ctx.map_rows(judge, out, items, step, JudgedPair, stage, source=comparison_id)
    rows: list[JudgedPair] = load_rows(out, JudgedPair)
    nulls = ctx.record_nulls(stage, [row.unscored for row in rows])
    if ctx.nulls[stage]:
        ctx.notify(f"{stage}: {ctx.nulls[stage]}")
    store.finish_artifact(out, verdicts=len(rows), **nulls)


def num_comparisons(config: EvalConfig, draws: int) -> int:
    """Verdicts on every two of base, SFT, policy and the named subjects."""
    subjects: Mapping[str, object] = {**SUBJECTS, **config.subjects}
    return draws * len(list(combinations(subjects, 2)))
