"""`cai batch`: stages of a run through a batch queue."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.runs import RunFile, Settings
from cai.cli.silence import quiet
from cai.errors import UsageError
from cai.lm.batch_files import MAX_BYTES, MAX_REQUESTS

if TYPE_CHECKING:
    from cai.lm.batch import Batch

batch = typer.Typer(
    name="batch",
    no_args_is_help=True,
    help="Run stages through a batch queue: of a vendor, or `vllm run-batch`.",
)


@batch.command(epilog="Example: cai batch emit revise examples/endpoint.yaml --output batches")
def emit(
    stage: Annotated[str, typer.Argument(help="revise or label.")],
    file: RunFile,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the request files; without it, `batches` in the run's."),
    ] = None,
    max_requests: Annotated[int, typer.Option(min=1, help="Of one file.")] = MAX_REQUESTS,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of one file.")] = MAX_BYTES,
    settings: Settings = None,
) -> None:
    """Write the requests that a stage needs next, as OpenAI Batch JSONL.

    Send the files to the queue, then give what comes back to `cai batch ingest`. A stage takes one
    wave for each call that needs another's answer: reply, critique, revision; or label.
    """
    from cai.lm.batch import Batch
    from cai.lm.batch_files import AnswerFiles, RequestFiles
    from cai.pipeline.config import load_run

    folder = output or load_run(file, settings or []).folder / "batches"
    requests = RequestFiles(folder, max_requests, max_bytes)
    job = Batch(stage, AnswerFiles(), requests)
    try:
        finished = run_pass(file, job, settings)
    except BaseException:
        requests.discard()
        raise
    paths = requests.close(stage)
    if finished:
        print(f"{stage}: finished: no request is open", file=sys.stderr)
        return
    print(f"{stage}: {len(job.open_ids)} requests", file=sys.stderr)
    for path in paths:
        print(path)


@batch.command(epilog="Example: cai batch ingest examples/endpoint.yaml revise-output.jsonl")
def ingest(
    file: RunFile,
    answers: Annotated[list[Path], typer.Argument(help="Files that the queue wrote.")],
    settings: Settings = None,
) -> None:
    """Put a queue's answers into the run's request log, and finish the stage if none is missing.

    Errors and missing lines stay open: `cai batch emit` writes them again.
    """
    from cai.lm.batch import Batch
    from cai.lm.batch_files import read_answer_files

    read_back = read_answer_files(answers)
    for reason, lines in read_back.problems.most_common():
        print(f"{lines} lines left out: {reason}", file=sys.stderr)
    if not read_back.offsets:
        raise UsageError(f"{answers[0]}: no answer in these files")
    for stage in read_back.stages:
        job = Batch(stage, read_back)
        finished = run_pass(file, job, settings)
        state = "finished" if finished else f"open: {len(job.open_ids)} (cai batch emit {stage})"
        print(f"{stage}: {job.answered} answers taken; {state}", file=sys.stderr)


def run_pass(file: Path, job: Batch, settings: Sequence[str] | None) -> bool:
    """One pass over a stage: whether the stage is finished."""
    quiet()
    from cai.pipeline.batches import run_batch
    from cai.pipeline.config import load_run
    from cai.pipeline.context import open_run
    from cai.progress import progress_bars

    resolved = load_run(file, list(settings or []))
    with progress_bars() as progress:
        ctx = open_run(resolved, progress, notify=lambda line: print(line, file=sys.stderr))
        return run_batch(ctx, job)
