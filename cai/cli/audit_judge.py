"""The command that audits a judge on a file of pairs that people labelled."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.columns import Choice, Columns, column_names, column_provenance
from cai.cli.endpoint_options import EndpointOptions, with_endpoint_options
from cai.cli.file_commands import label_config
from cai.cli.file_tools import FileTool, FileToolOptions, open_file_tool
from cai.cli.jsonl import FORMATS, STREAM, Line, read_pairs
from cai.cli.label_report import human_label
from cai.cli.stage_options import REPLY_FIELDS, Seed
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.data.reply_pairs import PairOptions
    from cai.generate.label_config import LabelConfig
    from cai.lm.budget import Prices
    from cai.report.judge_audit import AuditedPair

app = typer.Typer()
PREFIX = "judge_"
"""Begins the fields that the audit adds: a labelled file may have those of `cai label` already."""
FIELDS = ("p_first", "votes", "unscored", "people", "characters", "usage")
NO_LABEL = "people do not say which reply is better"


@app.command(
    name="audit-judge",
    epilog="Example: cai audit-judge --model smollm2 --constitution helpful_honest "
    "--input labelled.jsonl --output audit.jsonl",
)
@with_endpoint_options("audit-judge")
def audit_judge(
    model: Annotated[
        str, typer.Option(help="The judge: a model, or reward:FOLDER_OR_HUB_ID for its scores.")
    ],
    constitution: Annotated[str, typer.Option(help="The constitution with the principles.")],
    source: Annotated[
        Path,
        typer.Option("--input", help=f"Pairs with the better reply, as cai label reads. {FORMATS}"),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            help="The same lines with the labels; beside it .audit.json for --audit and "
            "judge_audit, and .md, the card.",
        ),
    ],
    preset: Annotated[
        str | None, typer.Option(help="A published recipe: cai, cai-cot, rlaif or direct.")
    ] = None,
    principles: Annotated[int | None, typer.Option(min=1, help="Principles per pair.")] = None,
    scale: Annotated[
        float | None, typer.Option(help="Of a reward model: divides its scores.")
    ] = None,
    choice: Choice = None,
    columns: Columns = None,
    seed: Seed = 0,
    *,
    endpoint: EndpointOptions,
) -> None:
    """Measure a judge against people's labels: agreement, both orders, position, calibration, cost.

    An output that was cut short is resumed. Baselines are the shorter and the longer reply.
    """
    from cai.cli.output_files import is_stream
    from cai.data.reply_pairs import PairOptions

    if output == STREAM or is_stream(output):
        raise UsageError("audit-judge: --output must be a file: the card goes beside it")
    config = label_config({"preset": preset, "principles": principles, "scale": scale})
    names = column_names(columns, REPLY_FIELDS)
    options = FileToolOptions(
        {"model": model, "constitution": constitution, "input": source, "output": output},
        endpoint,
        PREFIX,
    )
    pair_options = PairOptions(names, choice)
    with open_file_tool(options) as tool:
        _judge_file(tool, config, pair_options, seed)
        _write_audit(tool, config, options.endpoint.parse_settings()[1])


def _judge_file(tool: FileTool, config: LabelConfig, options: PairOptions, seed: int) -> None:
    from cai.pipeline.probe import ROW, Probe, Used
    from cai.records import Pair
    from cai.reward.score_labels import RewardJudge, pair_labeller
    from cai.store import digest

    judge = tool.lm if isinstance(tool.lm, RewardJudge) else Probe(tool.lm)

    async def audited(line: Line) -> dict[str, Any]:
        prompt, (first, second) = line.prompt, line.replies
        people = _people(line, options)
        reason = NO_LABEL if people is None or people == 0.5 else line.no_reply
        used = Used()
        ROW.set(used)
        kind_and_category = (prompt.kind, prompt.category)
        step = pair_labeller(tool.constitution, judge, config, seed, lambda pair: kind_and_category)
        pair = Pair(source=prompt.id, chat=prompt.chat, first=first, second=second, unscored=reason)
        row = await step(pair)
        usage = [used.calls, round(used.prompt), used.completion]
        fields = row.model_dump(mode="json", include={"p_first", "votes", "unscored"})
        lengths = [len(first), len(second)]
        return fields | {"people": people, "characters": lengths, "usage": usage}

    provenance = {"config": digest(config), "seed": str(seed), "choice": options.choice or ""}
    provenance |= column_provenance(options.columns)
    tool.run(read_pairs(tool.source, options.columns), audited, FIELDS, provenance)


def _people(line: Line, options: PairOptions) -> float | None:
    """P(first is better) by people; None where the row does not say."""
    from cai.data.reply_pairs import reply_pair

    people = human_label(line.data, line.location, options)
    if people is None:
        pair = reply_pair(line.data, line.location, options)
        people = None if pair is None else pair.p_first
    return people


def _audited_pairs(output: Path) -> tuple[list[AuditedPair], list[Sequence[int]]]:
    """(pairs that people labelled, [calls, prompt tokens, completion tokens] of every row)."""
    from cai.records import Preference
    from cai.report.judge_audit import AuditedPair
    from cai.store import json_lines, parse_row

    pairs: list[AuditedPair] = []
    usage: list[Sequence[int]] = []
    for number, data in json_lines(output):
        row: dict[str, Any] = {name: data.get(PREFIX + name) for name in FIELDS}
        usage.append(row["usage"])
        if row["people"] is None or row["people"] == 0.5:
            continue
        fields = {name: row[name] for name in ("p_first", "votes", "unscored")}
        label = parse_row(fields | {"source": str(number)}, Preference, f"{output}:{number}")
        pairs.append(AuditedPair(label, float(row["people"]), tuple(row["characters"])))
    return pairs, usage


def _write_audit(tool: FileTool, config: LabelConfig, prices: Prices) -> None:
    from cai.cli.output_files import replaced_output, write_output
    from cai.report.judge_audit import Audit, audit_card, audit_scores, audit_warning
    from cai.store import digest

    pairs, usage = _audited_pairs(tool.output)
    if not pairs:
        raise UsageError(
            f"{tool.source}: no pair has a label of people (`chosen` and `rejected`, `human`,"
            " `p_first`, or the number of the better reply)"
        )
    scores, ece, curve = audit_scores(pairs)
    calls, prompt_tokens, completion_tokens = (sum(column) for column in zip(*usage, strict=True))
    has_prices = bool(prices.prompt or prices.completion)
    audit = Audit(
        judge=tool.lm.fingerprint,
        config=digest(config),
        spec=tool.options.text("model"),
        pairs=len(pairs),
        ece=ece,
        temperature=_temperature(pairs),
        calls=calls,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost=prices.cost(prompt_tokens, completion_tokens) if has_prices else None,
        scores=tuple(scores),
    )
    texts = {
        ".audit.json": audit.model_dump_json(indent=2) + "\n",
        ".md": (card := audit_card(audit, curve, tool.source.name, _settings_text(tool, config))),
    }
    for suffix, text in texts.items():
        file = tool.output.with_suffix(suffix)
        with replaced_output(file, "audit-judge", tool.source):
            write_output(file, "audit-judge", text)
    sys.stdout.write(card)
    warning = audit_warning(audit, audit.judge, audit.config, audit.spec)
    if warning is not None:
        print(f"audit-judge: {warning}", file=sys.stderr)


def _settings_text(tool: FileTool, config: LabelConfig) -> str:
    principles = f", {config.principles} principles a pair" if config.ask == "principle" else ""
    preset = config.preset or "no preset"
    return f"constitution {tool.constitution.name}, {preset}{principles}"


def _temperature(pairs: Sequence[AuditedPair]) -> float | None:
    """The best divisor of the labels' log-odds; None where they determine none.

    Of a reward model whose labels were made with a scale, the best scale is this times that.
    """
    from cai.report.judge_audit import log_odds
    from cai.rubric.llm_grader import fit_temperature

    known = [(pair.label.p_first, pair.human > 0.5) for pair in pairs]
    odds = [(log_odds(p), holds) for p, holds in known if p is not None]
    # the same pairs in the other order: a file often has the better reply first throughout
    mirrored = [*odds, *((-z, not holds) for z, holds in odds)]
    if not any(z for z, _ in odds):
        return None
    return fit_temperature([z for z, _ in mirrored], [holds for _, holds in mirrored])
