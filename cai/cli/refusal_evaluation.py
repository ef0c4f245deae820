"""`cai eval --only refusal`: one model's replies to a file of prompts, graded and scored."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from cai.cli.endpoint_options import open_logged
from cai.cli.evaluation_rows import evaluated_rows, print_scores
from cai.cli.jsonl import STREAM
from cai.cli.rubrics import load_with_rubric
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.cli.evaluations import EvaluationJob
    from cai.records import Prompt


def evaluate_refusal(job: EvaluationJob) -> None:
    """Write the scores to the output, the replies beside it, and print the scores."""
    from cai import store
    from cai.cli.null_rows import print_null_rows
    from cai.cli.output_files import owned_output, replaced_output, write_output
    from cai.cli.reply_evaluation import split_scores
    from cai.cli.reply_evaluations import guard_of
    from cai.data.readers import ReadOptions, prompt_rows
    from cai.data.split import subsample
    from cai.evals.refusal import refusal_scores
    from cai.evals.replies import Graders, item_id, prompt_draws, reply_step
    from cai.generate.unanswered import null_reason
    from cai.records import EvalReply
    from cai.rubric import compile_rubric

    options, config, seed = job.options, job.config, job.seed
    _, rubric = load_with_rubric(job.constitution)
    output = options.path("output")
    if output == STREAM:
        raise UsageError("eval: --output must be a file: the replies go beside it")
    with (
        replaced_output(output, "eval", options.path("data")),
        open_logged(options.text("model"), output, options.endpoint) as lm,
    ):
        prompts = list(prompt_rows(options.path("data"), ReadOptions(job.columns)))
        prompts = subsample(prompts, job.limit, seed, "limit")
        _warn_of_missing_kinds(options.path("data"), prompts)
        replies_file = output.with_suffix(".items.jsonl")
        provenance = {
            "config": store.digest(config),
            "seed": str(seed),
            "model": lm.fingerprint,
            "data": store.digest(*(prompt.line() for prompt in prompts)),
            "rubric": store.digest(rubric),
            **options.answer_settings(),
        }
        guard = guard_of(job) if "guard" in job.extras else None
        if guard is not None:
            provenance["guard"] = guard.fingerprint
        graders = Graders(compile_rubric(rubric), guard)
        with owned_output(replies_file, "eval", provenance):
            step = reply_step(options.text("model"), lm, graders, config, seed)
            draws = prompt_draws(prompts, config.draws)
            replies = evaluated_rows(replies_file, draws, (step, EvalReply), lm, item_id)
        scores = split_scores(
            job.extras.get("train"), prompts, replies, lambda rows: refusal_scores(rows, seed=seed)
        )
        write_output(output, "eval", "".join(row.line() + "\n" for row in scores))
    print_scores(scores)
    print_null_rows("eval", Counter(null_reason(reply) for reply in replies))


def _warn_of_missing_kinds(data: Path, prompts: list[Prompt]) -> None:
    """Say on standard error how many prompts no metric of refusals is about."""
    missing = sum(prompt.kind is None for prompt in prompts)
    if missing:
        print(
            f"{data}: {missing:,} of {len(prompts):,} prompts have no `kind` (disallowed, sensitive"
            " or benign): metrics of refusals leave them out",
            file=sys.stderr,
        )
