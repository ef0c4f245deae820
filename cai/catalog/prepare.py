"""From the task of an evaluation to its items, its step and its metrics: every evaluation of one
model, whether a command or a run asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cai import store
from cai.artifacts import PROMPTS
from cai.catalog.choices import limited, load_items, questions_digest, scores_of
from cai.catalog.described_choices import described_choices
from cai.catalog.described_replies import build_described
from cai.catalog.evaluation_file import load_evaluation
from cai.catalog.names import CHOICES, is_described
from cai.catalog.replies import BUILDS, guard_of
from cai.catalog.task import EvaluationTask, PreparedEvaluation
from cai.constitution import load_with_rubric
from cai.data.readers import ReadOptions, located_rows, prompt_rows
from cai.data.split import subsample
from cai.errors import UsageError
from cai.evals.choice_scores import accuracy_scores
from cai.evals.choices import ChoiceAnswer, ChoiceItem, choice_step
from cai.evals.contamination import contamination_scores, overlapping_prompts
from cai.evals.refusal import refusal_scores
from cai.evals.replies import (
    Graders,
    ReplyEvaluation,
    item_id,
    prompt_draws,
    reply_step,
    scored_reply_step,
)
from cai.graders.base import scored_item_id
from cai.lm.base import LM
from cai.records import EvalReply, Prompt, Score, ScoredReply
from cai.rubric import compile_rubric

RowT = TypeVar("RowT", bound=Any)


def prepare(task: EvaluationTask, judge: LM | None) -> PreparedEvaluation:
    """Read the data and open the grader.

    Args:
        judge: the model that the option `judge` names; None where it names none.

    Raises:
        UsageError: an option, the data or a file that an option names is wrong.
    """
    if task.name == "refusal":
        return _refusal(task)
    if task.name in CHOICES:
        items = load_items(task.name, task.data, task.columns)
        return _choices(task, items, lambda answers: scores_of(task.name, answers))
    if not is_described(task.name):
        return _replies(task, BUILDS[task.name](task, judge))
    described = load_evaluation(Path(task.name))
    if described.settings.shape == "replies":
        return _replies(task, build_described(task, described, judge))
    if task.options:
        raise UsageError(f"--{min(task.options)}: {task.name} is of shape choices: leave it out")
    rows = list(located_rows(task.data))
    score = partial(accuracy_scores, described.settings.name)
    return _choices(task, described_choices(described, rows), score)


def _refusal(task: EvaluationTask) -> PreparedEvaluation:
    """Replies to prompts with a kind, graded by the rubric, and by a guard if one is named."""
    _, rubric = load_with_rubric(task.constitution)
    guard = guard_of(task)
    graders = Graders(compile_rubric(rubric), guard)
    prompts = list(prompt_rows(task.data, ReadOptions(task.columns)))
    prompts = subsample(prompts, task.limit, task.rows_seed, "limit")

    def scores(rows: Sequence[EvalReply]) -> list[Score]:
        return refusal_scores(rows, seed=task.seed)

    return PreparedEvaluation(
        items=prompt_draws(prompts, task.config.draws),
        kind=EvalReply,
        step=lambda subject, lm: reply_step(subject, lm, graders, task.config, task.seed),
        scores=split_scores(task, prompts, scores),
        provenance={
            "evaluation": Path(task.name).name,
            "config": store.digest(task.config),
            "seed": str(task.seed),
            "data": store.digest(*(prompt.line() for prompt in prompts)),
            "rubric": store.digest(rubric),
            **({} if guard is None else {"guard": guard.fingerprint}),
        },
        source=item_id,
        remarks=_missing_kinds(task, prompts),
    )


def _missing_kinds(task: EvaluationTask, prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """How many prompts no metric of refusals is about."""
    missing = sum(prompt.kind is None for prompt in prompts)
    if not missing:
        return ()
    return (
        f"{task.data}: {missing:,} of {len(prompts):,} prompts have no `kind` (disallowed,"
        " sensitive or benign): metrics of refusals leave them out",
    )


def _replies(task: EvaluationTask, evaluation: ReplyEvaluation) -> PreparedEvaluation:
    """Replies with any grader."""
    facts = [
        f"{item.id} {item.group} {dict(item.facts)} {[turn.content for turn in item.chat]}"
        for item in evaluation.items
    ]
    prompts = [item.prompt for item in evaluation.items]
    return PreparedEvaluation(
        items=evaluation.items,
        kind=ScoredReply,
        step=lambda subject, lm: scored_reply_step(
            subject, lm, evaluation.grader, task.config, task.seed
        ),
        scores=split_scores(task, prompts, evaluation.scores),
        provenance={
            "evaluation": Path(task.name).name,
            "config": store.digest(task.config),
            "seed": str(task.seed),
            "data": store.digest(*facts),
            **evaluation.provenance,
        },
        source=scored_item_id,
    )


def _choices(
    task: EvaluationTask,
    questions: Sequence[ChoiceItem],
    scores: Callable[[Sequence[ChoiceAnswer]], list[Score]],
) -> PreparedEvaluation:
    """Questions with options."""
    items = limited(questions, task.limit, task.rows_seed)
    return PreparedEvaluation(
        items=items,
        kind=ChoiceAnswer,
        step=choice_step,
        scores=scores,
        provenance={"questions": questions_digest(items)},
    )


def split_scores(
    task: EvaluationTask, prompts: Sequence[Prompt], scores: Callable[[Sequence[RowT]], list[Score]]
) -> Callable[[Sequence[RowT]], list[Score]]:
    """`scores`, and after them those split by overlap with the prompts that the option `train`
    names: a run's folder, or a file.
    """
    if "train" not in task.options:
        return scores
    folder = Path(task.options["train"])
    file = folder / PROMPTS if (folder / PROMPTS).exists() else folder
    overlapping = overlapping_prompts(prompts, prompt_rows(file))

    def split(rows: Sequence[RowT]) -> list[Score]:
        return [*scores(rows), *contamination_scores(rows, overlapping, scores)]

    return split
