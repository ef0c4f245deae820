"""The evaluations of sampled replies by name: how each is made from its task.

What reads weights is imported where it is needed, as that takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cai import store
from cai.attacks.template_files import read_templates
from cai.catalog.task import EvaluationTask
from cai.data.readers import located_rows, row_prompt
from cai.data.split import subsample
from cai.data.tables import Cells
from cai.errors import StoreError, UsageError, blame
from cai.evals.closed_domain import closed_domain_items, closed_domain_scores
from cai.evals.harm import guard_scores, harm_scores
from cai.evals.helpfulness import helpful_items, helpful_scores
from cai.evals.jailbreak import jailbreak_items, jailbreak_scores
from cai.evals.replies import ReplyEvaluation
from cai.evals.toxicity import prompt_group, toxicity_items, toxicity_scores
from cai.evals.truthfulqa_open import TEMPLATES, closest_items, closest_scores, references_of
from cai.graders.base import plain_items
from cai.graders.closest_option import closest_grader
from cai.graders.guard_verdicts import guard_grader
from cai.graders.helpfulness import helpful_grader
from cai.graders.reference_reply import harm_grader
from cai.graders.rubric import rubric_of
from cai.graders.support import grade_support
from cai.graders.text_scorers import open_scorer, scorer_digest, toxicity_grader
from cai.lm.base import LM
from cai.records import Prompt

if TYPE_CHECKING:
    from cai.graders.guard import Guard

Build = Callable[[EvaluationTask, LM | None], ReplyEvaluation]
"""(task, judge) -> the evaluation; the judge is None where none is named."""


class DataRow(NamedTuple):
    """A row of the data that has a prompt."""

    location: str
    """file:row"""
    data: dict[str, Any]
    prompt: Prompt


def build_harm(task: EvaluationTask, judge: LM | None) -> ReplyEvaluation:
    """Replies against a fixed refusal, by a preference model; or a guard's verdicts on them."""
    from cai.reward.preference_folder import open_preference_model

    items = plain_items(_prompts(task), task.config.draws)
    if {"preference", "guard"} <= task.options.keys():
        raise UsageError("harm: give a preference or a guard, not both")
    guard = guard_of(task)
    if guard is not None:
        provenance = {"guard": guard.fingerprint}
        return ReplyEvaluation(items, guard_grader(guard), guard_scores, provenance)
    if "preference" not in task.options:
        raise UsageError("--only harm: give --preference or --guard")
    opened = open_preference_model(Path(task.needed("preference")))
    grader = harm_grader(opened.score)
    return ReplyEvaluation(items, grader, harm_scores, {"preference": opened.fingerprint})


def build_toxicity(task: EvaluationTask, judge: LM | None) -> ReplyEvaluation:
    """Replies under three instructions, by a scorer of texts."""
    spec = task.needed("scorer")
    prompts = [(line.prompt, prompt_group(line.data)) for line in _rows(task)]
    return ReplyEvaluation(
        toxicity_items(prompts, task.config.draws),
        toxicity_grader(open_scorer(spec, allow_code=task.allow_code)),
        toxicity_scores,
        {"scorer": scorer_digest(spec)},
    )


def build_closest(task: EvaluationTask, judge: LM | None) -> ReplyEvaluation:
    """TruthfulQA's sampled answers, mapped to the closest reference answer by a judge."""
    from cai.lm.engines import is_endpoint

    if judge is None:
        raise task.lacking("judge")
    rows = [(line.prompt, references_of(line.data, line.location)) for line in _rows(task)]
    by_letter = is_endpoint(task.needed("judge"))
    return ReplyEvaluation(
        closest_items(rows, task.config.draws),
        closest_grader(judge, task.seed, by_letter=by_letter),
        closest_scores,
        {"templates": store.digest(*TEMPLATES)},
    )


def build_jailbreak(task: EvaluationTask, judge: LM | None) -> ReplyEvaluation:
    """Templates around prompts, graded by the rubric."""
    templates = read_templates(Path(task.needed("templates")))
    systems = task.options.get("systems")
    turns = [] if systems is None else read_templates(Path(systems))
    items = jailbreak_items(_prompts(task), templates, turns, task.config.draws)
    grader, digest = rubric_of(task.constitution)
    return ReplyEvaluation(items, grader, jailbreak_scores, {"rubric": digest})


def build_helpfulness(task: EvaluationTask, judge: LM | None) -> ReplyEvaluation:
    """Benign prompts: answers, words, variety, and relevance where a model is named for it."""
    items = helpful_items(_prompts(task), task.config.draws)
    if not items:
        raise UsageError(f"{task.data}: no benign prompt in it")
    rubric, digest = rubric_of(task.constitution)
    provenance, relevance = {"rubric": digest}, None
    if "reference" in task.options:
        from cai.reward.relevance import open_relevance

        prompts = list({item.prompt.id: item.prompt for item in items}.values())
        spec = task.options["reference"]
        relevance, provenance["reference"] = open_relevance(spec, prompts, task.seed)
    grader = helpful_grader(rubric, relevance)
    return ReplyEvaluation(items, grader, helpful_scores, provenance)


def build_closed_domain(task: EvaluationTask, judge: LM | None) -> ReplyEvaluation:
    """Questions about a given text."""
    column = task.columns.get("context", "context")
    rows = []
    for line in _rows(task):
        context = line.data.get(column)
        if not isinstance(context, str) or not context.strip():
            raise StoreError(
                f"{line.location}: closed-domain needs a `context` (text) beside the question:"
                " --column context=KEY reads another key"
            )
        rows.append((line.prompt, context))
    items = closed_domain_items(rows, task.config.draws)
    return ReplyEvaluation(items, grade_support, closed_domain_scores)


BUILDS: dict[str, Build] = {
    "harm": build_harm,
    "toxicity": build_toxicity,
    "truthfulqa-open": build_closest,
    "jailbreak": build_jailbreak,
    "helpfulness": build_helpfulness,
    "closed-domain": build_closed_domain,
}
"""Name of an evaluation -> what makes it."""


def guard_of(task: EvaluationTask) -> Guard | None:
    """The guard that the task names, with the rule of its guideline's file.

    Raises:
        UsageError: there is a guideline and no guard, or the guard names no weights.
        StoreError: the guideline cannot be read.
    """
    spec, file = task.options.get("guard"), task.options.get("guideline")
    if spec is None:
        if file is not None:
            raise UsageError("guideline is a rule for a guard: give a guard too")
        return None
    from cai.graders.guard import open_guard  # torch takes seconds to import

    if file is None:
        return open_guard(spec)
    with blame(StoreError, f"guideline {file}"):
        guideline = Path(file).read_text(encoding="utf-8").strip()
    return open_guard(spec, guideline)


def _prompts(task: EvaluationTask) -> Sequence[Prompt]:
    return [line.prompt for line in _rows(task)]


def _rows(task: EvaluationTask) -> list[DataRow]:
    """The rows of the data, or `limit` of them, without a prompt that came before.

    Raises:
        UsageError: there is none.
    """
    lines: dict[str, DataRow] = {}
    cells = Cells(frozenset(task.columns.values()))
    for location, data in located_rows(task.data, cells):
        prompt = row_prompt(data, location, task.columns)
        lines.setdefault(prompt.id, DataRow(location, data, prompt))
    if not lines:
        raise UsageError(f"{task.data}: no prompt in it")
    prompts = [line.prompt for line in lines.values()]
    return [lines[prompt.id] for prompt in subsample(prompts, task.limit, task.rows_seed, "limit")]
