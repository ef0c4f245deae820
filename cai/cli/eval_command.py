"""The command eval: a stage of a run, one evaluation of a model on a file, or a suite of them."""

from __future__ import annotations

from collections.abc import Mapping

import typer

from cai.catalog.names import COLUMN_FIELDS, is_described
from cai.cli import evaluation_options as given
from cai.cli.columns import Columns, column_names
from cai.cli.endpoint_options import EndpointOptions, with_endpoint_options
from cai.cli.evaluations import EvaluationJob, data_of, evaluate_file, required_options
from cai.cli.file_tools import FileToolOptions
from cai.cli.silence import quiet
from cai.cli.stage_options import ModelSpec, RunFile, Seed, Settings
from cai.cli.suite import SuiteJob, evaluate_suite
from cai.errors import UsageError

app = typer.Typer()


@app.command(
    name="eval",
    epilog="Example: cai eval examples/quickstart.yaml, or cai eval --only refusal "
    "--model smollm2 --constitution harmless --data prompts.jsonl --output scores.jsonl, or "
    "cai eval --suite examples/suite.yaml --model smollm2 --output results",
)
@with_endpoint_options("eval", Settings)
def evaluate(
    file: RunFile = None,
    only: given.Only = None,
    suite: given.SuiteFile = None,
    model: ModelSpec = None,
    data: given.EvaluationFile = None,
    output: given.ScoresFile = None,
    constitution: given.RubricOf = "refusal_style_fitted",
    limit: given.Limit = None,
    preference: given.PreferenceFolder = None,
    guard: given.Guard = None,
    guideline: given.Guideline = None,
    scorer: given.Scorer = None,
    judge: given.Judge = None,
    reference: given.Reference = None,
    templates: given.Templates = None,
    systems: given.Systems = None,
    train: given.TrainingPrompts = None,
    subject: given.Subjects = None,
    turns: given.Turns = None,
    preset: given.Preset = None,
    verdicts: given.Verdicts = None,
    draws: given.Draws = None,
    temperature: given.Temperature = None,
    columns: Columns = None,
    max_reply: given.MaxReply = None,
    seed: Seed = 0,
    *,
    endpoint: EndpointOptions,
) -> None:
    """Score models on held-out prompts: a stage of a run, or evaluations of one model on files."""
    single = {"preference": preference, "guard": guard, "guideline": guideline}
    single |= {"scorer": scorer, "judge": judge, "reference": reference}
    single |= {"templates": templates, "systems": systems, "train": train}
    single |= {"preset": preset, "verdicts": verdicts}
    repeated = {"subject": subject, "turns": turns}
    sampled = {"draws": draws, "temperature": temperature, "max_tokens": max_reply}
    if suite is not None:
        of_one = {"only": only, "data": data, **single, **repeated, **sampled, "column": columns}
        _refuse_beside_suite({"RUN.yaml": file, **_flags(of_one)})
        options = FileToolOptions({"suite": suite, "model": model, "output": output}, endpoint)
        options.check()
        quiet()
        evaluate_suite(SuiteJob(options, constitution, seed, limit))
        return
    if data is None and is_described(only):
        data = data_of(str(only))
    required = required_options(only, {"model": model, "data": data, "output": output})
    options = FileToolOptions(required, endpoint)
    if file is not None:
        options.run_stage(file, column=columns, limit=limit, **single, **repeated)
        return
    options.check()
    quiet()
    from cai.catalog.entries import sampling

    extras = {name: value for name, value in single.items() if value is not None}
    several = {name: values for name, values in repeated.items() if values}
    names, config = column_names(columns, COLUMN_FIELDS), sampling(str(only), sampled)
    evaluate_file(
        only, EvaluationJob(options, constitution, config, names, seed, limit, extras, several)
    )


def _flags(options: Mapping[str, object]) -> dict[str, object]:
    names = {"max_tokens": "max-reply"}
    return {f"--{names.get(name, name)}": value for name, value in options.items()}


def _refuse_beside_suite(options: Mapping[str, object]) -> None:
    """Nothing, if none of the options is given.

    Raises:
        UsageError: one is, which a suite has in its file.
    """
    beside = [name for name, value in options.items() if value]
    if beside:
        raise UsageError(
            f"eval: --suite and {', '.join(beside)}: the file of a suite says that for each entry"
        )
