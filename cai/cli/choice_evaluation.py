"""`cai eval --only NAME` of questions with options: one model's answers to a file of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cai.cli.endpoint_options import open_logged
from cai.cli.evaluation_rows import evaluated_rows, print_scores
from cai.cli.jsonl import STREAM
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.cli.evaluations import EvaluationJob
    from cai.evals.choices import ChoiceAnswer, ChoiceItem
    from cai.records import Score


def evaluate_choices(name: str, job: EvaluationJob) -> None:
    """Run one of the evaluations in `cai.evals.suite`."""
    from cai.evals.suite import load_items, scores_of

    def load() -> list[ChoiceItem]:
        return load_items(name, job.options.path("data"), job.columns)

    evaluate_items(name, job, load, lambda answers: scores_of(name, answers))


def evaluate_items(
    name: str,
    job: EvaluationJob,
    load: Callable[[], Sequence[ChoiceItem]],
    score: Callable[[Sequence[ChoiceAnswer]], list[Score]],
) -> None:
    """Write the scores to the output, the answers beside it, and print the scores."""
    from cai.cli.null_rows import print_null_rows
    from cai.cli.output_files import owned_output, replaced_output, write_output
    from cai.evals.choices import ChoiceAnswer, choice_step, limited
    from cai.evals.suite import questions_digest

    options, data, output = job.options, job.options.path("data"), job.options.path("output")
    if output == STREAM:
        raise UsageError("eval: --output must be a file: the answers go beside it")
    with (
        replaced_output(output, "eval", data),
        open_logged(options.text("model"), output, options.endpoint) as lm,
    ):
        items = limited(load(), job.limit, job.seed)
        provenance = {
            "evaluation": name,
            "model": lm.fingerprint,
            "data": questions_digest(items),
            **options.answer_settings(),
        }
        answers_file = output.with_suffix(".items.jsonl")
        with owned_output(answers_file, "eval", provenance):
            step = choice_step(options.text("model"), lm)
            answers = evaluated_rows(answers_file, items, (step, ChoiceAnswer), lm)
        scores = score(answers)
        write_output(output, "eval", "".join(row.line() + "\n" for row in scores))
    print_scores(scores)
    print_null_rows("eval", Counter(answer.unscored for answer in answers))
