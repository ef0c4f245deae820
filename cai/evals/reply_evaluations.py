"""The evaluations of sampled replies by name: how each is made from its task.

What reads weights is imported where it is needed, as that takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cai import store
from cai.attacks.template_files import read_templates
from cai.constitution import load_with_rubric
from cai.data.readers import located_rows, row_prompt
from cai.data.split import subsample
from cai.data.tables import Cells
from cai.errors import StoreError, UsageError, blame
from cai.evals.closed_domain import closed_domain_items, closed_domain_scores, grade_support
from cai.evals.closest_option import (
    TEMPLATES,
    closest_grader,
    closest_items,
    closest_scores,
    references_of,
)
from cai.evals.graded_items import GradedItem, Grader, ReplyEvaluation
from cai.evals.harm import guard_grader, guard_scores, harm_grader, harm_scores
from cai.evals.helpfulness import helpful_grader, helpful_items, helpful_scores
from cai.evals.jailbreak import jailbreak_items, jailbreak_scores
from cai.evals.rubric_values import rubric_grader
from cai.evals.task import EvaluationTask
from cai.evals.text_scorers import open_scorer
from cai.evals.toxicity import prompt_group, toxicity_grader, toxicity_items, toxicity_scores
from cai.lm.base import LM
from cai.records import Prompt
from cai.rubric import compile_rubric
from cai.seeds import rng

if TYPE_CHECKING:
    from cai.evals.guard import Guard
    from cai.reward.relevance import Relevance

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

    items = [
        GradedItem(prompt, prompt.chat, draw)
        for prompt in _prompts(task)
        for draw in range(task.config.draws)
    ]
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
    if judge is None:
        raise task.lacking("judge")
    rows = [(line.prompt, references_of(line.data, line.location)) for line in _rows(task)]
    by_letter = _is_endpoint(task.needed("judge"))
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
        prompts = list({item.prompt.id: item.prompt for item in items}.values())
        relevance, provenance["reference"] = _relevance(task, prompts)
    grader = helpful_grader(rubric, relevance)
    return ReplyEvaluation(items, grader, helpful_scores, provenance)


def _relevance(task: EvaluationTask, prompts: Sequence[Prompt]) -> tuple[Relevance, str]:
    """(relevance under the model that --reference names, its fingerprint)."""
    from cai.modeling.loading import fingerprint, load_model
    from cai.modeling.lora import with_adapter
    from cai.modeling.model_files import training_weights
    from cai.modeling.tokenization import load_renderer
    from cai.reward.preference_model import ADAPTER
    from cai.reward.relevance import OTHERS, relevance_scorer

    if len(prompts) <= OTHERS:
        raise UsageError(f"--reference: relevance needs {OTHERS + 1} benign prompts or more")
    weights = training_weights(task.options["reference"])
    drawn = rng(task.seed, "relevance").sample(prompts, OTHERS + 1)
    model = with_adapter(load_model(weights), ADAPTER, 1, 1)  # the adapter is not used
    others = [prompt.chat for prompt in drawn]
    return relevance_scorer(model, load_renderer(weights), others), fingerprint(weights)


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
    from cai.evals.guard import open_guard

    spec, file = task.options.get("guard"), task.options.get("guideline")
    if spec is None:
        if file is not None:
            raise UsageError("guideline is a rule for a guard: give a guard too")
        return None
    if file is None:
        return open_guard(spec)
    with blame(StoreError, f"guideline {file}"):
        guideline = Path(file).read_text(encoding="utf-8").strip()
    return open_guard(spec, guideline)


def rubric_of(constitution: str) -> tuple[Grader, str]:
    """(a grader by the constitution's rubric, the rubric's digest)."""
    _, rubric = load_with_rubric(constitution)
    return rubric_grader(compile_rubric(rubric)), store.digest(rubric)


def scorer_digest(spec: str) -> str:
    """The scorer's content, or its name where it is code."""
    name, _, label = spec.partition("#")
    path = Path(name)
    return f"{store.file_digest(path)} {label}" if path.exists() else spec


def _is_endpoint(spec: str) -> bool:
    from cai.lm.engines import is_endpoint

    return is_endpoint(spec)


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
