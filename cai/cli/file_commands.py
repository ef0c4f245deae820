"""The commands revise and label: a stage of a run, or a tool for a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.columns import Choice, Columns, column_names, column_provenance
from cai.cli.endpoint_options import EndpointOptions, with_endpoint_options
from cai.cli.file_tools import FileTool, FileToolOptions, open_file_tool
from cai.cli.jsonl import (
    Line,
    Prefix,
    read_lines,
    read_pairs,
)
from cai.cli.stage_options import (
    REPLY_FIELDS,
    ConstitutionName,
    ModelSpec,
    RunFile,
    Seed,
    Settings,
    Source,
    Target,
)
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.generate.label_config import LabelConfig
    from cai.generate.revise import ReviseConfig

app = typer.Typer()


@app.command(
    epilog="Example: cai revise examples/quickstart.yaml, or cai revise "
    "--constitution harmless --model smollm2 --input prompts.jsonl --output revised.jsonl"
)
@with_endpoint_options("revise", Settings)
def revise(
    file: RunFile = None,
    constitution: ConstitutionName = None,
    model: ModelSpec = None,
    source: Source = None,
    output: Target = None,
    rounds: Annotated[
        int | None, typer.Option(min=0, max=16, help="Critiques and revisions per reply.")
    ] = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="Revise without a critique first.")
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Revisions sampled per round, of which the best by the rubric stays.",
        ),
    ] = None,
    self_correction: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CATEGORY",
            help="Prompts of this category: answer under an instruction against bias, which the"
            " output leaves out; repeatable.",
        ),
    ] = None,
    max_reply: Annotated[int, typer.Option("--max-reply", min=1, help="Tokens of a reply.")] = 64,
    prefix: Prefix = None,
    columns: Columns = None,
    seed: Seed = 0,
    *,
    endpoint: EndpointOptions,
) -> None:
    """Have a model critique and revise its own replies.

    A stage of a run, or a tool for a file of {prompt or chat, kind?} lines.
    """
    options = FileToolOptions(
        {"constitution": constitution, "model": model, "input": source, "output": output},
        endpoint,
        prefix,
    )
    if file is not None:
        options.run_stage(
            file,
            rounds=rounds,
            direct=direct or None,
            samples=samples,
            self_correction=self_correction or None,
            column=columns,
        )
        return
    from cai.generate.revise import ReviseConfig

    config = ReviseConfig(
        rounds=1 if rounds is None else rounds,
        direct=direct,
        samples=samples or 1,
        self_correction=tuple(self_correction or ()),
        max_tokens=max_reply,
        stop_when_kept=False,
    )
    names = column_names(columns)
    with open_file_tool(options) as tool:
        _revise_file(tool, config, names, seed)


def _revise_file(tool: FileTool, config: ReviseConfig, columns: dict[str, str], seed: int) -> None:
    from cai.generate.revise import reviser
    from cai.records import PromptDraw
    from cai.rubric import compile_rubric, training_gate
    from cai.store import digest

    rubric = tool.constitution.rubric
    gate = training_gate(compile_rubric(rubric) if rubric else None)
    step = reviser(tool.constitution, tool.lm, config, gate, seed)

    fields = {"initial", "rounds", "final", "chosen_round", "dropped"}
    fields |= {"initial_finished", "initial_samples", "initial_sample", "self_corrected"}

    async def revision_fields(line: Line) -> dict[str, Any]:
        row = await step(PromptDraw(prompt=line.prompt))
        return row.model_dump(mode="json", include=fields)

    provenance = {"config": digest(config), "seed": str(seed), **column_provenance(columns)}
    tool.run(read_lines(tool.source, columns), revision_fields, fields, provenance)


@app.command(
    epilog="Example: cai label examples/quickstart.yaml, or cai label "
    "--constitution harmless --model smollm2 --input pairs.jsonl --output labelled.jsonl"
)
@with_endpoint_options("label", Settings)
def label(
    file: RunFile = None,
    constitution: ConstitutionName = None,
    model: ModelSpec = None,
    source: Source = None,
    output: Target = None,
    principles: Annotated[int | None, typer.Option(min=1, help="Principles per pair.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Label nothing: report on the labels in this file."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A recipe: cai, cai-cot, rlaif, direct, relevance or probe.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Of a reward model (reward:FOLDER): divides its scores.")
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The judge's .audit.json, of cai audit-judge."),
    ] = None,
    prefix: Prefix = None,
    choice: Choice = None,
    columns: Columns = None,
    seed: Seed = 0,
    *,
    endpoint: EndpointOptions,
) -> None:
    """Label which of two replies is better, by principle and in both orders.

    A stage of a run, or a tool for a file of pairs: {prompt or chat, first, second} lines, or
    those of TRL, hh-rlhf, UltraFeedback or PKU-SafeRLHF.
    """
    if report is not None:
        from cai.cli.label_report import label_report
        from cai.data.reply_pairs import PairOptions

        label_report(report, PairOptions(column_names(columns, REPLY_FIELDS), choice), prefix or "")
        return
    options = FileToolOptions(
        {"constitution": constitution, "model": model, "input": source, "output": output},
        endpoint,
        prefix,
    )
    if file is not None:
        options.run_stage(
            file, principles=principles, preset=preset, scale=scale, audit=audit, column=columns
        )
    else:
        config = label_config({"preset": preset, "principles": principles, "scale": scale})
        names = column_names(columns, REPLY_FIELDS)
        with open_file_tool(options) as tool:
            _label_file(tool, config, names, seed)
            _warn_of_judge(tool, config, audit)


def _warn_of_judge(tool: FileTool, config: LabelConfig, file: Path | None) -> None:
    """A line on standard error, if the judge was never audited, or its audit found nothing."""
    from cai.report.judge_audit import audit_warning, read_audit
    from cai.store import digest

    audit = None if file is None else read_audit(file)
    spec = tool.options.text("model")
    warning = audit_warning(audit, tool.lm.fingerprint, digest(config), spec)
    if warning is not None:
        print(f"label: {warning}", file=sys.stderr)


def label_config(settings: dict[str, Any]) -> LabelConfig:
    """The settings of labels, from options; None: not given.

    Raises:
        UsageError: one of them is wrong.
    """
    from pydantic import ValidationError

    from cai.generate.label_config import LabelConfig

    given = {name: value for name, value in settings.items() if value is not None}
    try:
        return LabelConfig.model_validate(given)
    except ValidationError as error:
        raise UsageError(f"label: {error.errors(include_url=False)[0]['msg']}") from None


def _label_file(tool: FileTool, config: LabelConfig, columns: dict[str, str], seed: int) -> None:
    from cai.generate.reply_scores import score_provenance
    from cai.records import Pair
    from cai.reward.score_labels import label_scale, pair_labeller
    from cai.store import digest

    fields = {"p_first", "votes", "unscored"}

    async def label_fields(line: Line) -> dict[str, Any]:
        prompt = line.prompt
        kind_and_category = (prompt.kind, prompt.category)
        step = pair_labeller(
            tool.constitution, tool.lm, config, seed, lambda pair: kind_and_category
        )
        first, second = line.replies
        pair = Pair(
            source=prompt.id, chat=prompt.chat, first=first, second=second, unscored=line.no_reply
        )
        row = await step(pair)
        return row.model_dump(mode="json", include=fields)

    provenance = {"config": digest(config), "seed": str(seed), **column_provenance(columns)}
    provenance |= label_scale(tool.lm, config) | score_provenance(config)
    tool.run(read_pairs(tool.source, columns), label_fields, fields, provenance)
