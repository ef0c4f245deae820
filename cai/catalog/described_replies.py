"""Replies to the prompts of an evaluation that a YAML file describes, with its grader."""

from __future__ import annotations

from functools import partial

from cai.catalog.evaluation_file import Described, described_items, described_scores
from cai.catalog.task import EvaluationTask
from cai.data.readers import located_rows
from cai.data.split import subsample
from cai.errors import ConfigError, UsageError
from cai.evals.replies import ReplyEvaluation
from cai.graders import one_value as graders
from cai.graders.base import Grader
from cai.graders.rubric import rubric_of
from cai.graders.text_scorers import open_scorer, scorer_digest
from cai.lm.base import LM


def build_described(
    task: EvaluationTask, described: Described, judge: LM | None
) -> ReplyEvaluation:
    """The evaluation of a file of shape `replies`, on the task's data.

    Raises:
        UsageError: the data or the grader is wrong, or there is no judge where one is needed.
    """
    items = described_items(described, list(located_rows(task.data)), task.config.draws)
    if not items:
        raise UsageError(f"{task.data}: no row in it")
    if task.limit is not None:
        prompts = list({item.prompt.id: item.prompt for item in items}.values())
        chosen = {prompt.id for prompt in subsample(prompts, task.limit, task.rows_seed, "limit")}
        items = [item for item in items if item.prompt.id in chosen]
    grader, digest = _grader(described, judge)
    provenance = {"grader": f"{digest} {described.settings.grader!r}"}
    scores = partial(described_scores, described.settings)
    return ReplyEvaluation(items, grader, scores, provenance)


def _grader(described: Described, judge: LM | None) -> tuple[Grader, str]:
    """(the file's grader, a digest of what it reads)."""
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
