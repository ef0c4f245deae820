"""The evaluations that a run's YAML lists, of base, SFT and policy: those of `cai eval --suite`."""

from __future__ import annotations

from pathlib import Path

from cai import store
from cai.artifacts import EVALUATIONS, SUBJECTS
from cai.catalog.entries import EvaluationEntry
from cai.catalog.prepare import prepare
from cai.catalog.task import EvaluationTask, PreparedEvaluation
from cai.generate.unanswered import null_reason, set_unanswered_aside
from cai.lm import LM
from cai.pipeline.context import RunContext, load_rows
from cai.pipeline.run_prompts import SPLIT_SEED
from cai.records import Score


def listed_scores(ctx: RunContext) -> list[Score]:
    """The scores of 75-evaluations/TITLE/SUBJECT.jsonl. An answered item is not asked again."""
    entries = ctx.resolved.evaluations
    scores: dict[tuple[str, str], list[Score]] = {}
    for subject in SUBJECTS if entries else ():
        for entry in entries:
            scores[entry.title, subject] = _evaluate(ctx, subject, entry)
        ctx.close_models()  # a subject leaves memory before the next is loaded
    return [row for entry in entries for name in SUBJECTS for row in scores[entry.title, name]]


def listed_task(ctx: RunContext, entry: EvaluationEntry) -> EvaluationTask:
    """What a run asks for by an entry: runs of several seeds use the same rows of the data."""
    constitution = str(ctx.resolved.constitution)
    return entry.task(constitution=constitution, seed=ctx.seed, rows_seed=SPLIT_SEED)


def _rows_file(ctx: RunContext, entry: EvaluationEntry, subject: str) -> Path:
    return ctx.path(EVALUATIONS) / entry.title / f"{subject}.jsonl"


def _evaluate(ctx: RunContext, subject: str, entry: EvaluationEntry) -> list[Score]:
    """The scores of one subject, whose rows are made where they are missing."""
    task, spec = listed_task(ctx, entry), _spec(ctx, subject)
    judge_spec = task.options.get("judge")
    judge = None if judge_spec is None else ctx.lm(judge_spec)
    prepared = prepare(task, judge)
    provenance = {**prepared.provenance, **_about_model(ctx, subject)}
    if judge is not None and judge_spec is not None:
        provenance |= {"judge": judge.fingerprint, **ctx.answer_settings(judge_spec)}
    out, stage = _rows_file(ctx, entry, subject), f"eval {entry.title} {subject}"
    out.parent.mkdir(parents=True, exist_ok=True)
    finished = ctx.begin(out, stage, provenance)
    if not finished or ctx.reopen_unanswered(out, stage, provenance):
        for remark in prepared.remarks:
            ctx.notify(remark)
        _ask(ctx, (ctx.lm(spec), judge), (subject, stage), prepared, out)
    return entry.labelled(prepared.scores(load_rows(out, prepared.kind)))


def _spec(ctx: RunContext, subject: str) -> str:
    folder = SUBJECTS[subject]
    return f"local:{ctx.path(folder)}" if folder else ctx.run.model


def _about_model(ctx: RunContext, subject: str) -> dict[str, str]:
    """What decides the answers of a subject."""
    folder = SUBJECTS[subject]
    if folder:
        return {f"input {folder}": store.content_digest(ctx.require(folder))}
    spec = ctx.run.model
    return {"model": ctx.lm(spec).fingerprint, **ctx.answer_settings(spec)}


def _ask(
    ctx: RunContext,
    models: tuple[LM, LM | None],
    names: tuple[str, str],
    prepared: PreparedEvaluation,
    out: Path,
) -> None:
    """Make the missing rows.

    Args:
        models: the subject, and the judge if there is one.
        names: of the subject, and of the work.
    """
    (lm, judge), (subject, stage) = models, names
    set_unanswered_aside(out, prepared.kind)
    step = prepared.step(subject, lm)
    ctx.map_rows(
        lm, out, prepared.items, step, prepared.kind, stage, source=prepared.source, judge=judge
    )
    rows = load_rows(out, prepared.kind)
    nulls = ctx.record_nulls(stage, [null_reason(row) for row in rows])
    if ctx.nulls[stage]:
        ctx.notify(f"{stage}: {ctx.nulls[stage]}")
    store.finish_artifact(out, answers=len(rows), **nulls)
