"""`cai eval --only FILE.yaml`: an evaluation that a YAML file describes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cai.cli.reply_evaluations import rubric_of, scorer_digest
from cai.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from cai.cli.evaluations import EvaluationJob
    from cai.evals.evaluation_file import Described
    from cai.evals.graded_items import Grader, ReplyEvaluation
    from cai.lm import LM


def evaluate_described(job: EvaluationJob) -> None:
    """Run the evaluation of the file that `--only` names, of whichever shape it is."""
    from cai.evals.evaluation_file import load_evaluation

    described = load_evaluation(Path(job.name))
    if described.settings.shape == "replies":
        from cai.cli.reply_evaluation import evaluate_replies

        evaluate_replies(job, build_described)
        return
    from cai.cli.choice_evaluation import evaluate_items
    from cai.data.readers import located_rows
    from cai.evals.choice_scores import accuracy_scores
    from cai.evals.described_choices import described_choices

    if job.extras:
        raise UsageError(f"--{min(job.extras)}: {job.name} is of shape choices: leave it out")
    evaluate_items(
        described.settings.name,
        job,
        lambda: described_choices(described, list(located_rows(job.options.path("data")))),
        partial(accuracy_scores, described.settings.name),
    )


def build_described(job: EvaluationJob, judge: LM | None) -> ReplyEvaluation:
    """The evaluation of the file that `--only` names, on its data or that of `--data`."""
    from cai.data.readers import located_rows
    from cai.data.split import subsample
    from cai.evals.evaluation_file import described_items, described_scores, load_evaluation
    from cai.evals.graded_items import ReplyEvaluation

    described = load_evaluation(Path(job.name))
    items = described_items(
        described, list(located_rows(job.options.path("data"))), job.config.draws
    )
    if not items:
        raise UsageError(f"{job.options.path('data')}: no row in it")
    if job.limit is not None:
        prompts = list({item.prompt.id: item.prompt for item in items}.values())
        chosen = {prompt.id for prompt in subsample(prompts, job.limit, job.seed, "limit")}
        items = [item for item in items if item.prompt.id in chosen]
    grader, digest = _grader(described, judge)
    provenance = {"grader": f"{digest} {described.settings.grader!r}"}
    scores = partial(described_scores, described.settings)
    return ReplyEvaluation(items, grader, scores, provenance)


def _grader(described: Described, judge: LM | None) -> tuple[Grader, str]:
    """(the file's grader, a digest of what it reads)."""
    from cai.evals import evaluation_file as graders
    from cai.evals.text_scorers import open_scorer

    settings, source = described.settings.grader, described.source
    if settings is None:
        raise ConfigError(f"{source.path}: the key 'grader' is missing")
    if settings.rubric is not None:
        rubric, digest = rubric_of(described.beside(settings.rubric))
        return graders.measure_grader(rubric, settings.measure), digest
    if settings.classifier is not None:
        spec = described.beside(settings.classifier.partition("#")[0])
        spec += settings.classifier.removeprefix(settings.classifier.partition("#")[0])
        try:
            return graders.scorer_grader(open_scorer(spec, allow_code=False)), scorer_digest(spec)
        except UsageError as error:
            where = source.at(("grader", "classifier"))
            raise ConfigError(f"{where}: grader.classifier: {error}") from None
    if settings.judge is not None:
        if judge is None:
            where = source.at(("grader", "judge"))
            raise UsageError(f"{where}: grader.judge: name the model that answers, with --judge")
        return graders.judge_grader(judge, settings.judge), ""
    if settings.regex is not None:
        return graders.pattern_grader(settings.regex, str(source.path)), ""
    return graders.grade_contains, ""
