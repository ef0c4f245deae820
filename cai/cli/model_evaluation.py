"""One evaluation of one model on a file: its scores, and its rows beside them."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cai.cli.endpoint_options import EndpointOptions, open_logged
from cai.cli.evaluation_rows import evaluated_rows
from cai.cli.jsonl import STREAM
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.catalog.task import EvaluationTask
    from cai.cli.evaluations import EvaluationJob
    from cai.lm import LM
    from cai.records import Score

Models = Callable[[str], "LM"]
"""Spec -> the model, which is opened once."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation gave."""

    scores: list[Score]
    reasons: Counter[str | None]
    """Why rows are null -> how many; None: those that are not."""


def evaluate_model(job: EvaluationJob) -> None:
    """Write the scores to the output, the rows beside it, and print the scores.

    Raises:
        UsageError: an option, the data or the output is wrong.
    """
    from cai.cli.null_rows import print_null_rows
    from cai.cli.output_files import replaced_output, write_output

    options, output = job.options, job.options.path("output")
    if output == STREAM:
        raise UsageError(
            "eval: --output must be a file: the rows of replies or answers go beside it"
        )
    with (
        replaced_output(output, "eval", options.path("data")),
        open_models(output, options.endpoint) as models,
    ):
        evaluation = Evaluation(options.text("model"), models, options.endpoint)
        result = evaluation.of(job.task(), output.with_suffix(".items.jsonl"))
        write_output(output, "eval", score_lines(result.scores))
    print_scores(result.scores)
    print_null_rows("eval", result.reasons)


@dataclass(frozen=True)
class Evaluation:
    """A model to evaluate, with what it takes to ask it."""

    subject: str
    """The model's spec."""
    models: Models
    endpoint: EndpointOptions
    label: str = "eval"
    """Names the work while it goes on."""

    def of(self, task: EvaluationTask, rows_file: Path) -> Evaluated:
        """Ask what was not answered yet, into `rows_file`, and score all rows.

        Raises:
            UsageError: an option, the data or the file is wrong.
        """
        from cai.catalog.prepare import prepare
        from cai.cli.output_files import owned_output
        from cai.generate.unanswered import null_reason

        lm, spec = self.models(self.subject), task.options.get("judge")
        judge = None if spec is None else self.models(spec)
        prepared = prepare(task, judge)
        for remark in prepared.remarks:
            print(remark, file=sys.stderr)
        provenance = {
            **prepared.provenance,
            "model": lm.fingerprint,
            **self.endpoint.answer_settings(self.subject),
        }
        if judge is not None and spec is not None:
            provenance |= {"judge": judge.fingerprint, **self.endpoint.answer_settings(spec)}
        lms = [lm] if judge is None or judge is lm else [lm, judge]
        with owned_output(rows_file, "eval", provenance):
            how = prepared.step(self.subject, lm), prepared.kind, prepared.source
            rows = evaluated_rows(rows_file, prepared.items, how, lms, self.label)
        return Evaluated(prepared.scores(rows), Counter(null_reason(row) for row in rows))


@contextlib.contextmanager
def open_models(beside: Path, endpoint: EndpointOptions) -> Iterator[Models]:
    """Opens models by their specs. The limits hold for all of them together, and what their calls
    took goes to standard error at the end.

    Args:
        beside: the output whose request log it is.
    """
    budget = endpoint.budget(endpoint.parse_settings()[1])
    opened: dict[str, LM] = {}
    try:
        with contextlib.ExitStack() as stack:

            def open_once(spec: str) -> LM:
                if spec not in opened:
                    logged = open_logged(spec, beside, endpoint, budget)
                    opened[spec] = stack.enter_context(logged)
                return opened[spec]

            yield open_once
    finally:
        if budget.calls:
            print(f"calls   {budget.summary()}", file=sys.stderr)


def score_lines(scores: Sequence[Score]) -> str:
    """The scores as lines of a file."""
    return "".join(row.line() + "\n" for row in scores)


def print_scores(scores: Sequence[Score]) -> None:
    """A line for each metric."""
    for row in scores:
        mean = "–" if row.mean is None else f"{row.mean:.3f}"
        print(f"{row.metric:<44} {mean} n={row.n}")
