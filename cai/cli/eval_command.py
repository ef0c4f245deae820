"""The command eval: a stage of a run, or one evaluation of a model on a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cai.cli.columns import Columns, column_names
from cai.cli.endpoint_options import Connections, EndpointOptions
from cai.cli.evaluations import (
    EVALUATIONS,
    EvaluationJob,
    data_of,
    evaluate_file,
    is_described,
    required_options,
    sampling,
)
from cai.cli.file_tools import FileToolOptions
from cai.cli.jsonl import FORMATS
from cai.cli.runs import MaxCost, MaxHours, MaxTokens, SpendingLimits
from cai.cli.silence import quiet
from cai.cli.stage_options import REPLY_FIELDS, ModelSpec, RunFile, Seed, Settings

app = typer.Typer()
EVALUATION_FIELDS = ("response", "context")
"""Fields of evaluations that `--column` may name."""


@app.command(
    name="eval",
    epilog="Example: cai eval examples/quickstart.yaml, or cai eval --only refusal "
    "--model smollm2 --constitution harmless --data prompts.jsonl --output scores.jsonl",
)
def evaluate(
    file: RunFile = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Without RUN.yaml: {', '.join(EVALUATIONS)}, or the YAML file of your own.",
        ),
    ] = None,
    model: ModelSpec = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help=f"For refusal, prompts with a kind: {FORMATS} Other evaluations read the files of"
            " their sets: see the documentation.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="Score rows; replies or answers go beside it, as .items.jsonl."
        ),
    ] = None,
    constitution: Annotated[
        str, typer.Option(help="Without RUN.yaml: the constitution whose rubric grades replies.")
    ] = "refusal_style",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Rows of the data to use, drawn by --seed.")
    ] = None,
    preference: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="harm: a run's folder, or that of a preference model."),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="toxicity: a file of words and /patterns/, a classifier's folder[#LABEL], or "
            "MODULE:FUNCTION.",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="truthfulqa-open: the model that maps answers; elo: that compares; your own: that "
            "answers a question.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="helpfulness: a local model that measures relevance."),
    ] = None,
    templates: Annotated[
        str | None, typer.Option(metavar="PATH", help="jailbreak: templates, in a file or folder.")
    ] = None,
    systems: Annotated[
        str | None, typer.Option(metavar="PATH", help="jailbreak: system turns, like --templates.")
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Evaluations of replies: a run's folder or a file of prompts; scores are also "
            "split by overlap with these.",
        ),
    ] = None,
    subjects: Annotated[
        list[str] | None,
        typer.Option(
            "--subject",
            metavar="NAME=SPEC",
            help="elo: a model to compare; the first is the reference; repeatable.",
        ),
    ] = None,
    turns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="elo: what comes before a subject's prompts: a system turn (.txt), or turns "
            "(.jsonl of role and content); repeatable.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="elo: the judge's recipe: direct (default), rlaif, cai, cai-cot, relevance or "
            "probe."
        ),
    ] = None,
    verdicts: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="elo: people's verdicts: rows of prompt, first and second (subjects' names), "
            "verdict (first, second or tie).",
        ),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Replies per prompt: 1, and 5 for harm.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0.7, and 1 for harm and toxicity.")
    ] = None,
    columns: Columns = None,
    max_reply: Annotated[
        int | None, typer.Option("--max-reply", min=1, help="Tokens of a reply: 64.")
    ] = None,
    seed: Seed = 0,
    connections: Connections = None,
    settings: Settings = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
) -> None:
    """Score models on held-out prompts: a stage of a run, or one evaluation of one model."""
    limits = SpendingLimits(max_cost, max_tokens, max_hours)
    if data is None and is_described(only):
        data = data_of(str(only))
    options = FileToolOptions(
        required_options(only, {"model": model, "data": data, "output": output}),
        EndpointOptions("eval", connections, settings, limits),
    )
    extras = {
        "preference": preference,
        "scorer": scorer,
        "judge": judge,
        "reference": reference,
        "templates": templates,
        "systems": systems,
        "train": train,
        "preset": preset,
        "verdicts": verdicts,
    }
    several = {"subject": subjects, "turns": turns}
    if file is not None:
        options.run_stage(file, column=columns, limit=limit, **extras, **several)
        return
    options.check()
    quiet()
    config = sampling(only, {"draws": draws, "temperature": temperature, "max_tokens": max_reply})
    names = column_names(columns, (*REPLY_FIELDS, *EVALUATION_FIELDS))
    given = {name: value for name, value in extras.items() if value is not None}
    lists = {name: values for name, values in several.items() if values}
    job = EvaluationJob(options, constitution, config, names, seed, limit, given, lists)
    evaluate_file(only, job)
