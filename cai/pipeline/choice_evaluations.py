"""The evaluations of a run by questions with options: base, SFT and policy on public sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cai import store
from cai.artifacts import EVALUATIONS, SUBJECTS
from cai.evals.choices import ChoiceAnswer, ChoiceItem, choice_step, limited
from cai.evals.suite import load_items, questions_digest, scores_of
from cai.generate.unanswered import set_unanswered_aside
from cai.pipeline.context import RunContext, load_rows
from cai.pipeline.run_prompts import SPLIT_SEED
from cai.records import Score

Questions = Mapping[str, list[ChoiceItem]]
"""Name of an evaluation -> its questions."""


def choice_scores(ctx: RunContext) -> list[Score]:
    """The scores of 75-evaluations/NAME/SUBJECT.jsonl. An answered question is not asked again."""
    entries = zip(ctx.run.evaluations, ctx.resolved.evaluation_data, strict=True)
    questions: Questions = {
        # runs of several seeds are evaluated on the same questions
        entry.name: limited(load_items(entry.name, data), entry.limit, SPLIT_SEED)
        for entry, data in entries
    }
    if questions:
        for subject in SUBJECTS:
            _answer(ctx, subject, questions)
    scores: list[Score] = []
    for name in questions:
        for subject in SUBJECTS:
            scores += scores_of(name, load_rows(_answers_file(ctx, name, subject), ChoiceAnswer))
    return scores


def _answers_file(ctx: RunContext, name: str, subject: str) -> Path:
    return ctx.path(EVALUATIONS) / name / f"{subject}.jsonl"


def _answer(ctx: RunContext, subject: str, questions: Questions) -> None:
    """The answers of one subject, which leaves memory again before the next is loaded."""
    folder, run = SUBJECTS[subject], ctx.run
    spec = f"local:{ctx.path(folder)}" if folder else run.model
    if folder:
        about_model = {f"input {folder}": store.content_digest(ctx.require(folder))}
    else:
        about_model = {"model": ctx.lm(spec).fingerprint, **ctx.answer_settings(spec)}
    for name, items in questions.items():
        out, stage = _answers_file(ctx, name, subject), f"eval {name} {subject}"
        out.parent.mkdir(parents=True, exist_ok=True)
        provenance = {"questions": questions_digest(items), **about_model}
        if ctx.begin(out, stage, provenance) and not ctx.reopen_unanswered(out, stage, provenance):
            continue
        _ask(ctx, spec, (subject, stage), items, out)
    ctx.close_models()


def _ask(
    ctx: RunContext,
    spec: str,
    names: tuple[str, str],
    items: Sequence[ChoiceItem],
    out: Path,
) -> None:
    """Answer the questions.

    Args:
        names: of the subject, and of the work.
    """
    subject, stage = names
    lm = ctx.lm(spec)
    set_unanswered_aside(out, ChoiceAnswer)
    ctx.map_rows(lm, out, items, choice_step(subject, lm), ChoiceAnswer, stage)
    answers = load_rows(out, ChoiceAnswer)
    nulls = ctx.record_nulls(stage, [answer.unscored for answer in answers])
    if ctx.nulls[stage]:
        ctx.notify(f"{stage}: {ctx.nulls[stage]}")
    store.finish_artifact(out, answers=len(answers), **nulls)
