"""The evaluations of sampled replies by name: how each is made from a command's options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cai.cli.jsonl import Line, read_lines
from cai.cli.rubrics import load_with_rubric
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.cli.evaluations import EvaluationJob
    from cai.cli.reply_evaluation import Build
    from cai.evals.graded_items import Grader, ReplyEvaluation
    from cai.evals.guard import Guard
    from cai.lm import LM
    from cai.records import Prompt
    from cai.reward.relevance import Relevance


def build_harm(job: EvaluationJob, judge: LM | None) -> ReplyEvaluation:
    """Replies against a fixed refusal, by a preference model; or a guard's verdicts on them."""
    from cai.evals.graded_items import GradedItem, ReplyEvaluation
    from cai.evals.harm import guard_grader, guard_scores, harm_grader, harm_scores
    from cai.reward.preference_folder import open_preference_model

    items = [
        GradedItem(prompt, prompt.chat, draw)
        for prompt in _prompts(job)
        for draw in range(job.config.draws)
    ]
    if "guard" in job.extras:
        if "preference" in job.extras:
            raise UsageError("--only harm: give --preference or --guard, not both")
        guard = guard_of(job)
        return ReplyEvaluation(
            items, guard_grader(guard), guard_scores, {"guard": guard.fingerprint}
        )
    opened = open_preference_model(Path(job.needed("preference")))
    grader = harm_grader(opened.score)
    return ReplyEvaluation(items, grader, harm_scores, {"preference": opened.fingerprint})


def build_toxicity(job: EvaluationJob, judge: LM | None) -> ReplyEvaluation:
    """Replies under three instructions, by a scorer of texts."""
    from cai.evals.graded_items import ReplyEvaluation
    from cai.evals.text_scorers import open_scorer
    from cai.evals.toxicity import prompt_group, toxicity_grader, toxicity_items, toxicity_scores

    spec = job.needed("scorer")
    prompts = [(line.prompt, prompt_group(line.data)) for line in _lines(job)]
    return ReplyEvaluation(
        toxicity_items(prompts, job.config.draws),
        toxicity_grader(open_scorer(spec)),
        toxicity_scores,
        {"scorer": scorer_digest(spec)},
    )


def build_closest(job: EvaluationJob, judge: LM | None) -> ReplyEvaluation:
    """TruthfulQA's sampled answers, mapped to the closest reference answer by a judge."""
    from cai import store
    from cai.evals.closest_option import (
        TEMPLATES,
        closest_grader,
        closest_items,
        closest_scores,
        references_of,
    )
    from cai.evals.graded_items import ReplyEvaluation

    if judge is None:
        raise job.lacking("judge")
    rows = [(line.prompt, references_of(line.data, line.location)) for line in _lines(job)]
    by_letter = _is_endpoint(job.needed("judge"))
    return ReplyEvaluation(
        closest_items(rows, job.config.draws),
        closest_grader(judge, job.seed, by_letter=by_letter),
        closest_scores,
        {"templates": store.digest(*TEMPLATES)},
    )


def build_jailbreak(job: EvaluationJob, judge: LM | None) -> ReplyEvaluation:
    """Templates around prompts, graded by the rubric."""
    from cai.attacks.template_files import read_templates
    from cai.evals.graded_items import ReplyEvaluation
    from cai.evals.jailbreak import jailbreak_items, jailbreak_scores

    templates = read_templates(Path(job.needed("templates")))
    systems = job.extras.get("systems")
    turns = [] if systems is None else read_templates(Path(systems))
    items = jailbreak_items(_prompts(job), templates, turns, job.config.draws)
    grader, digest = rubric_of(job.constitution)
    return ReplyEvaluation(items, grader, jailbreak_scores, {"rubric": digest})


def build_helpfulness(job: EvaluationJob, judge: LM | None) -> ReplyEvaluation:
    """Benign prompts: answers, words, variety, and relevance where a model is named for it."""
    from cai.evals.graded_items import ReplyEvaluation
    from cai.evals.helpfulness import helpful_grader, helpful_items, helpful_scores

    items = helpful_items(_prompts(job), job.config.draws)
    if not items:
        raise UsageError(f"{job.options.path('data')}: no benign prompt in it")
    rubric, digest = rubric_of(job.constitution)
    provenance, relevance = {"rubric": digest}, None
    if "reference" in job.extras:
        prompts = list({item.prompt.id: item.prompt for item in items}.values())
        relevance, provenance["reference"] = _relevance(job, prompts)
    grader = helpful_grader(rubric, relevance)
    return ReplyEvaluation(items, grader, helpful_scores, provenance)


def _relevance(job: EvaluationJob, prompts: Sequence[Prompt]) -> tuple[Relevance, str]:
    """(relevance under the model that --reference names, its fingerprint)."""
    from cai.modeling.loading import fingerprint, load_model
    from cai.modeling.lora import with_adapter
    from cai.modeling.model_files import training_weights
    from cai.modeling.tokenization import load_renderer
    from cai.reward.preference_model import ADAPTER
    from cai.reward.relevance import OTHERS, relevance_scorer
    from cai.seeds import rng

    if len(prompts) <= OTHERS:
        raise UsageError(f"--reference: relevance needs {OTHERS + 1} benign prompts or more")
    weights = training_weights(job.extras["reference"])
    drawn = rng(job.seed, "relevance").sample(prompts, OTHERS + 1)
    model = with_adapter(load_model(weights), ADAPTER, 1, 1)  # the adapter is not used
    others = [prompt.chat for prompt in drawn]
    return relevance_scorer(model, load_renderer(weights), others), fingerprint(weights)


def build_closed_domain(job: EvaluationJob, judge: LM | None) -> ReplyEvaluation:
    """Questions about a given text."""
    from cai.errors import StoreError
    from cai.evals.closed_domain import (
        closed_domain_items,
        closed_domain_scores,
        grade_support,
    )
    from cai.evals.graded_items import ReplyEvaluation

    column = job.columns.get("context", "context")
    rows = []
    for line in _lines(job):
        context = line.data.get(column)
        if not isinstance(context, str) or not context.strip():
            raise StoreError(
                f"{line.location}: closed-domain needs a `context` (text) beside the question:"
                " --column context=KEY reads another key"
            )
        rows.append((line.prompt, context))
    items = closed_domain_items(rows, job.config.draws)
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


def guard_of(job: EvaluationJob) -> Guard:
    """The guard that --guard names, with the rule of --guideline."""
    from cai.errors import StoreError, blame
    from cai.evals.guard import open_guard

    guideline = job.extras.get("guideline")
    if guideline is not None:
        with blame(StoreError, f"--guideline {guideline}"):
            guideline = Path(guideline).read_text(encoding="utf-8").strip()
    return open_guard(job.needed("guard"), guideline)


def rubric_of(constitution: str) -> tuple[Grader, str]:
    """(a grader by the constitution's rubric, the rubric's digest)."""
    from cai import store
    from cai.evals.rubric_values import rubric_grader
    from cai.rubric import compile_rubric

    _, rubric = load_with_rubric(constitution)
    return rubric_grader(compile_rubric(rubric)), store.digest(rubric)


def scorer_digest(spec: str) -> str:
    """The scorer's content, or its name where it is code."""
    from cai import store

    path = Path(spec.partition("#")[0])
    return f"{spec} {store.file_digest(path)}" if path.exists() else spec


def _is_endpoint(spec: str) -> bool:
    return spec.startswith(("http:", "https:"))


def _prompts(job: EvaluationJob) -> Sequence[Prompt]:
    return [line.prompt for line in _lines(job)]


def _lines(job: EvaluationJob) -> list[Line]:
    """The rows of the data, or `--limit` of them, without a prompt that came before.

    Raises:
        UsageError: there is none.
    """
    from cai.data.split import subsample

    lines: dict[str, Line] = {}
    for line in read_lines(job.options.path("data"), job.columns):
        lines.setdefault(line.prompt.id, line)
    if not lines:
        raise UsageError(f"{job.options.path('data')}: no prompt in it")
    prompts = [line.prompt for line in lines.values()]
    return [lines[prompt.id] for prompt in subsample(prompts, job.limit, job.seed, "limit")]
