"""`cai ray`: stages of a run, and grades, through Ray Data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cai.cli.batches import run_pass
from cai.cli.endpoint_options import EndpointOptions, EndpointSettings, open_logged
from cai.cli.grades import GradeFiles, GradeTool, grade_by_model, model_step
from cai.cli.jsonl import Input, Line
from cai.cli.runs import RunFile, Settings, SpendingLimits
from cai.cli.silence import quiet
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.lm.batch import Batch
    from cai.lm.http_config import HttpConfig

ray = typer.Typer(
    name="ray",
    no_args_is_help=True,
    help="Run stages, and grade replies, through Ray Data on one machine or many.",
)
Workers = Annotated[int, typer.Option(min=1, help="Processes of Ray that answer requests.")]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Answer with vLLM engines in Ray instead of the run's endpoint."
    ),
]
Deployment = Annotated[
    str | None,
    typer.Option(
        metavar="APPLICATION/DEPLOYMENT", help="Answer with a deployment of Ray Serve instead."
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option("--address", help="Of a cluster, or `auto`; without it, Ray starts here."),
]


class _Engines(NamedTuple):
    """What answers the requests."""

    workers: int
    engine: str | None
    deployment: str | None
    address: str | None

    def processor(self, spec: str, http: HttpConfig, folder: Path) -> Any:
        """The configuration of Ray's processor, for a model that `spec` names."""
        from cai.integrations import ray_processors
        from cai.modeling.model_spec import split_spec

        if self.engine and self.deployment:
            raise UsageError("--engine and --deployment: give one of them")
        if self.engine:
            mode = split_spec(spec)[1].mode
            return ray_processors.engine_processor(self.engine, mode, self.workers)
        if self.deployment:
            return ray_processors.deployment_processor(self.deployment, self.workers)
        return ray_processors.http_processor(spec, http, self.workers, folder)


@ray.command(
    "label",
    help="Preference labels, in one wave for both orders of every pair.",
    epilog="Example: cai ray label examples/endpoint.yaml --workers 8 --address auto",
)
@ray.command(
    "revise",
    help="Critique and revision, in waves: replies, critiques, revisions.",
    epilog="Example: cai ray revise examples/endpoint.yaml --workers 8 --address auto",
)
def run_stage(
    context: typer.Context,
    file: RunFile,
    workers: Workers = 2,
    engine: Engine = None,
    deployment: Deployment = None,
    address: Cluster = None,
    settings: Settings = None,
) -> None:
    """The stage that the command is named after."""
    quiet()
    from cai.integrations.ray_data import answer_in_waves
    from cai.pipeline.batches import endpoint_of
    from cai.pipeline.config import load_run

    stage = str(context.command.name)
    engines = _Engines(workers, engine, deployment, address)
    resolved = load_run(file, settings or [])
    spec = endpoint_of(resolved.run, stage)
    folder = resolved.folder.absolute() / "ray" / stage
    with _cluster(address):
        answer_in_waves(
            stage,
            folder,
            engines.processor(spec, resolved.run.http, folder),
            lambda batch: run_pass(file, batch, settings),
            _print_line,
        )
    _print_line(f"{stage}: finished")


@ray.command(
    name="grade",
    epilog="Example: cai ray grade --constitution harmless --input replies.jsonl "
    "--output grades.jsonl --model http://127.0.0.1:8000/v1#MODEL",
)
def grade_replies(
    constitution: Annotated[str, typer.Option(help="A constitution with a rubric.")],
    source: Input,
    output: Annotated[Path, typer.Option(help="The same lines with fields added.")],
    model: Annotated[str, typer.Option(help="An endpoint, which decides propositions.")],
    ask_all: Annotated[
        bool, typer.Option("--ask-all", help="It decides every proposition.")
    ] = False,
    workers: Workers = 2,
    engine: Engine = None,
    deployment: Deployment = None,
    address: Cluster = None,
    settings: EndpointSettings = None,
) -> None:
    """Grade replies by the rubric, as `cai grade --model` does, in one wave."""
    from cai.cli.columns import column_names
    from cai.cli.output_files import refuse_input_as_output
    from cai.constitution import load_with_rubric
    from cai.rubric import compile_rubric

    quiet()
    engines = _Engines(workers, engine, deployment, address)
    options = EndpointOptions("grade", None, settings, SpendingLimits(None, None, None))
    if not model.startswith(("http:", "https:")):
        raise UsageError(f"ray grade: --model {model}: name an endpoint, http://HOST:PORT/v1#MODEL")
    for path in (source, output):
        if path == Path("-"):
            raise UsageError("ray grade: the input is read several times: name files, not -")
    loaded, rubric = load_with_rubric(constitution)
    files = GradeFiles(source, column_names(None, ("response",)), output, "")
    tool = GradeTool(loaded, compile_rubric(rubric), files, ask_all, explain=False)
    refuse_input_as_output(output, source)
    with _cluster(engines.address):
        _grade_in_waves(tool, model, options, engines)


def _grade_in_waves(
    tool: GradeTool, model: str, options: EndpointOptions, engines: _Engines
) -> None:
    from cai.integrations.ray_data import answer_in_waves
    from cai.lm.batch import WaveError, collect_requests
    from cai.lm.caching import CachedLM

    output = tool.files.output.absolute()
    folder = output.with_name(f"{output.name}.ray")
    http = options.parse_settings()[0]
    with open_logged(model, output, options) as lm:
        assert isinstance(lm, CachedLM)  # noqa: S101

        def run_pass(batch: Batch) -> bool:
            lm.lm.lm.batch = batch  # type: ignore[attr-defined]
            step = model_step(tool, lm)
            rows = [_NumberedLine(str(n), line) for n, line in enumerate(tool.rows())]
            try:
                collect_requests(
                    lm, rows, lambda row: step(row.line), batch, lambda done, total: None
                )
            except WaveError:
                return False
            # while the answers are there: some refused ones are not in the log
            grade_by_model(tool, lm, options.answer_settings(model))
            return True

        processor = engines.processor(model, http, folder)
        answer_in_waves("grade", folder, processor, run_pass, _print_line)


class _NumberedLine(NamedTuple):
    id: str
    line: Line


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Ray, connected. One that starts here ends here."""
    # what Ray would report about its use is not for us to send
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray as ray_core
    except ImportError:
        raise UsageError("Ray is not installed: pip install 'cai[ray]'") from None
    try:
        # without "local", Ray would join a cluster that happens to run here
        ray_core.init(address=address or "local", include_dashboard=None if address else False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"--address {address}: {error}") from None
    try:
        yield
    finally:
        ray_core.shutdown()


def _print_line(line: str) -> None:
    print(line, file=sys.stderr)
