"""`cai eval --only NAME` of sampled replies: items, a grader, and the mean of its values."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cai.cli.endpoint_options import open_logged
from cai.cli.evaluation_rows import evaluated_rows, print_scores
from cai.cli.jsonl import STREAM
from cai.errors import UsageError
from cai.records import EvalReply, Prompt, ScoredReply

if TYPE_CHECKING:
    from cai.cli.evaluations import EvaluationJob
    from cai.evals.graded_items import ReplyEvaluation
    from cai.lm import LM
    from cai.records import Score

RowT = TypeVar("RowT", EvalReply, ScoredReply)
Build = Callable[["EvaluationJob", "LM | None"], "ReplyEvaluation"]
"""(job, judge) -> the evaluation; the judge is None where none is named."""


def evaluate_replies(job: EvaluationJob, build: Build) -> None:
    """Write the scores to the output, the replies beside it, and print the scores.

    Raises:
        UsageError: an option, the data or the output is wrong.
    """
    from cai.cli.null_rows import print_null_rows
    from cai.cli.output_files import owned_output, replaced_output, write_output
    from cai.evals.graded_items import scored_item_id, scored_reply_step

    options, output = job.options, job.options.path("output")
    if output == STREAM:
        raise UsageError("eval: --output must be a file: the replies go beside it")
    subject = options.text("model")
    with replaced_output(output, "eval", options.path("data")), _models(job) as (lm, judge):
        evaluation = build(job, judge)
        rows_file = output.with_suffix(".items.jsonl")
        with owned_output(rows_file, "eval", _provenance(job, evaluation, lm, judge)):
            step = scored_reply_step(subject, lm, evaluation.grader, job.config, job.seed)
            rows = evaluated_rows(
                rows_file, evaluation.items, (step, ScoredReply), lm, scored_item_id, judge
            )
        prompts = [item.prompt for item in evaluation.items]
        scores = split_scores(job.extras.get("train"), prompts, rows, evaluation.scores)
        write_output(output, "eval", "".join(row.line() + "\n" for row in scores))
    print_scores(scores)
    print_null_rows("eval", Counter(row.unscored for row in rows))


@contextlib.contextmanager
def _models(job: EvaluationJob) -> Iterator[tuple[LM, LM | None]]:
    """The subject and, where one is named, the judge. The limits hold for both together."""
    options, output = job.options, job.options.path("output")
    subject, judge = options.text("model"), job.extras.get("judge")
    if judge is None:
        with open_logged(subject, output, options.endpoint) as lm:
            yield lm, None
        return
    budget = options.endpoint.budget(options.endpoint.parse_settings()[1])
    try:
        with contextlib.ExitStack() as stack:
            lm = stack.enter_context(open_logged(subject, output, options.endpoint, budget))
            if judge == subject:
                yield lm, lm
            else:
                yield (
                    lm,
                    stack.enter_context(open_logged(judge, output, options.endpoint, budget)),
                )
    finally:
        if budget.calls:
            print(f"calls   {budget.summary()}", file=sys.stderr)


def _provenance(
    job: EvaluationJob, evaluation: ReplyEvaluation, lm: LM, judge: LM | None
) -> dict[str, str]:
    """What decides the rows."""
    from cai import store

    facts = [
        f"{item.id} {item.group} {dict(item.facts)} {[turn.content for turn in item.chat]}"
        for item in evaluation.items
    ]
    judged = {} if judge is None else {"judge": judge.fingerprint}
    judged |= {} if judge is None else job.options.endpoint.answer_settings(job.extras["judge"])
    return {
        "evaluation": job.name,
        "config": store.digest(job.config),
        "seed": str(job.seed),
        "model": lm.fingerprint,
        "data": store.digest(*facts),
        **judged,
        **evaluation.provenance,
        **job.options.answer_settings(),
    }


def split_scores(
    train: str | None,
    prompts: Sequence[Prompt],
    rows: list[RowT],
    scores: Callable[[Sequence[RowT]], list[Score]],
) -> list[Score]:
    """The scores, and those of prompts that overlap with training prompts and of the others.

    Args:
        train: a run's folder, or a file of prompts; None: nothing is split.
    """
    from cai.artifacts import PROMPTS
    from cai.data.readers import prompt_rows
    from cai.evals.contamination import contamination_scores, overlapping_prompts

    overall: list[Score] = scores(rows)
    if train is None:
        return overall
    folder = Path(train)
    file = folder / PROMPTS if (folder / PROMPTS).exists() else folder
    overlapping: set[str] = overlapping_prompts(prompts, prompt_rows(file))
    return [*overall, *contamination_scores(rows, overlapping, scores)]
