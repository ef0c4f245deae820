"""`cai eval --only refusal`: one model's replies to a file of prompts, graded and scored."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from cai.cli.endpoint_options import open_logged
from cai.cli.file_tools import FileToolOptions
from cai.cli.jsonl import STREAM
from cai.cli.rubrics import load_with_rubric
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.constitution.schema import Rubric
    from cai.evals.replies import EvalConfig
    from cai.lm import LM
    from cai.records import EvalReply, Prompt


def evaluate_refusal(
    options: FileToolOptions,
    constitution: str,
    config: EvalConfig,
    columns: dict[str, str],
    seed: int,
) -> None:
    """Write the scores to the output, the replies beside it, and print the scores."""
    from cai import store
    from cai.cli.null_rows import print_null_rows
    from cai.cli.output_files import owned_output, replaced_output, write_output
    from cai.data.readers import ReadOptions, prompt_rows
    from cai.evals.refusal import refusal_scores
    from cai.generate.unanswered import null_reason

    _, rubric = load_with_rubric(constitution)
    output = options.path("output")
    if output == STREAM:
        raise UsageError("eval: --output must be a file: the replies go beside it")
    with (
        replaced_output(output, "eval", options.path("data")),
        open_logged(options.text("model"), output, options.endpoint) as lm,
    ):
        prompts = list(prompt_rows(options.path("data"), ReadOptions(columns)))
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
        with owned_output(replies_file, "eval", provenance):
            replies = _replies(replies_file, prompts, lm, (rubric, config, seed), options)
        scores = refusal_scores(replies, seed=seed)
        write_output(output, "eval", "".join(row.line() + "\n" for row in scores))
    for row in scores:
        mean = "–" if row.mean is None else f"{row.mean:.3f}"
        print(f"{row.metric:<44} {mean} n={row.n}")
    print_null_rows("eval", Counter(null_reason(reply) for reply in replies))


def _replies(
    file: Path,
    prompts: list[Prompt],
    lm: LM,
    settings: tuple[Rubric, EvalConfig, int],
    options: FileToolOptions,
) -> list[EvalReply]:
    """The replies in `file`: new ones, and new tries of those without an answer for now."""
    from cai import store
    from cai.async_map import map_rows
    from cai.evals.replies import item_id, prompt_draws, reply_step
    from cai.generate.unanswered import ask_again, unanswered_sources
    from cai.progress import progress_bars
    from cai.records import EvalReply
    from cai.rubric import compile_rubric

    rubric, config, seed = settings
    items = prompt_draws(prompts, config.draws)
    step = reply_step(options.text("model"), lm, compile_rubric(rubric), config, seed)
    unanswered = unanswered_sources(file, EvalReply, item_id)
    width = lm.max_concurrency
    with progress_bars() as progress:
        bar = progress("eval")

        async def work() -> None:
            try:
                await map_rows(
                    file, items, step, EvalReply,
                    max_concurrency=width, source=item_id, progress=bar,
                )  # fmt: skip
                if unanswered:
                    print(
                        f"eval: {len(unanswered)} unanswered rows are asked again", file=sys.stderr
                    )
                    again = [item for item in items if item.id in unanswered]
                    await ask_again(
                        file, again, step, EvalReply, source=item_id, max_concurrency=width
                    )
            finally:
                await lm.aclose()

        asyncio.run(work())
    return list(store.read_rows(file, EvalReply))


def _warn_of_missing_kinds(data: Path, prompts: list[Prompt]) -> None:
    """Say on standard error how many prompts no metric of refusals is about."""
    missing = sum(prompt.kind is None for prompt in prompts)
    if missing:
        print(
            f"{data}: {missing:,} of {len(prompts):,} prompts have no `kind` (disallowed, sensitive"
            " or benign): metrics of refusals leave them out",
            file=sys.stderr,
        )
