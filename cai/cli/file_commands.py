"""Stages that also work on files of one's own: revise, label, eval."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from cai.cli.jsonl import STREAM, Line, alone, at_once, each_line, limits, needed, open_logged, read_lines
from cai.cli.runs import MaxCost, MaxHours, MaxTokens, Settings, walk_run
from cai.cli.silence import quiet
from cai.errors import ConfigError, UsageError

app = typer.Typer()
RunFile = Annotated[Path | None, typer.Argument(metavar="RUN.yaml", help="A run, of which this is one stage.")]
Book = Annotated[str | None, typer.Option("--constitution", help="Without RUN.yaml: whose principles.")]
Model = Annotated[str | None, typer.Option("--model", help="Without RUN.yaml: who is asked.")]
Source = Annotated[Path | None, typer.Option("--input", help="Without RUN.yaml: JSONL to read; - is standard input.")]
Target = Annotated[Path | None, typer.Option("--output", help="The same lines with fields added; - is standard output.")]
Seed = Annotated[int, typer.Option(help="Without RUN.yaml: draws follow from it and from each line's content.")]
Connections = Annotated[int | None, typer.Option(min=1, help="Calls under way at once, to an endpoint.")]
EVALUATIONS = ("refusal",)


@app.command(
    epilog="Example: cai revise examples/quickstart.yaml, or "
    "cai revise --constitution harmless --model smollm2 --input prompts.jsonl --output revised.jsonl"
)
def revise(
    file: RunFile = None,
    constitution: Book = None,
    model: Model = None,
    source: Source = None,
    output: Target = None,
    rounds: Annotated[int | None, typer.Option(min=0, max=16, help="Critiques and revisions per reply.")] = None,
    direct: Annotated[bool, typer.Option("--direct", help="Revise without a critique first.")] = False,
    max_reply: Annotated[int, typer.Option("--max-reply", min=1, help="Tokens of a reply.")] = 64,
    seed: Seed = 0,
    connections: Connections = None,
    settings: Settings = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
) -> None:
    """Critiques and revisions of a model's own replies: a run's stage, or {prompt or chat, kind?} lines of a file."""
    options = {"constitution": constitution, "model": model, "input": source, "output": output}
    alone("revise", file, **options, rounds=rounds, direct=direct or None, connections=connections)
    if file is not None:
        walk_run(file, ("revise",), settings, max_cost=max_cost, max_tokens=max_tokens, max_hours=max_hours)
        return
    needed("revise", settings, **options)
    quiet()
    from cai.constitution import find, load_constitution
    from cai.generate.filters import all_of, not_degenerate
    from cai.generate.revise import ReviseConfig, reviser
    from cai.records import PromptDraw
    from cai.rubric import compile_rubric, gate_of

    assert constitution is not None and model is not None and source is not None and output is not None  # noqa: PT018, S101
    budget = limits("revise", max_cost, max_tokens, max_hours)
    book, author = load_constitution(find(constitution)), open_logged(model, output, connections, budget)
    config = ReviseConfig(rounds=1 if rounds is None else rounds, direct=direct, max_tokens=max_reply, stop_when_kept=False)
    gate = all_of(not_degenerate, gate_of(compile_rubric(book.rubric))) if book.rubric else not_degenerate
    step = reviser(book, author, config, gate, seed)

    async def added(line: Line) -> dict[str, Any]:
        row = await step(PromptDraw(prompt=line.prompt))
        return row.model_dump(mode="json", include={"initial", "rounds", "final", "chosen_round", "dropped"})

    each_line(read_lines(source), output, at_once(added, author), max_concurrency=author.max_concurrency, label="revise")


@app.command(
    epilog="Example: cai label examples/quickstart.yaml, or "
    "cai label --constitution harmless --model smollm2 --input pairs.jsonl --output labelled.jsonl"
)
def label(
    file: RunFile = None,
    constitution: Book = None,
    model: Model = None,
    source: Source = None,
    output: Target = None,
    principles: Annotated[int | None, typer.Option(min=1, help="Principles per pair.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Only tell what this file says of its judge.")] = None,
    preset: Annotated[str | None, typer.Option(help="A published recipe: cai, cai-cot, rlaif or direct.")] = None,
    seed: Seed = 0,
    connections: Connections = None,
    settings: Settings = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
) -> None:
    """Which reply is better, by principle, in both orders: a run's stage, or {prompt or chat, first, second} lines of a file."""
    options = {"constitution": constitution, "model": model, "input": source, "output": output}
    if report is not None:
        from cai.cli.label_report import label_report

        label_report(report)
        return
    alone("label", file, **options, principles=principles, preset=preset, connections=connections)
    if file is not None:
        walk_run(file, ("label",), settings, max_cost=max_cost, max_tokens=max_tokens, max_hours=max_hours)
        return
    needed("label", settings, **options)
    quiet()
    from pydantic import ValidationError

    from cai.constitution import find, load_constitution
    from cai.generate.label import LabelConfig, labeller
    from cai.records import Pair

    assert constitution is not None and model is not None and source is not None and output is not None  # noqa: PT018, S101
    budget = limits("label", max_cost, max_tokens, max_hours)
    book, judge = load_constitution(find(constitution)), open_logged(model, output, connections, budget)
    chosen = {"preset": preset, "principles": principles}
    try:
        config = LabelConfig.model_validate({key: value for key, value in chosen.items() if value is not None})
    except ValidationError as error:
        raise UsageError(f"label: {error.errors(include_url=False)[0]['msg']}") from None

    async def added(line: Line) -> dict[str, Any]:
        step = labeller(book, judge, config, seed, lambda pair: (line.prompt.kind, line.prompt.category))
        pair = Pair(source=line.prompt.id, chat=line.prompt.chat, first=line.data["first"], second=line.data["second"])
        return (await step(pair)).model_dump(mode="json", include={"p_first", "votes", "unscored"})

    each_line(
        read_lines(source, ("first", "second")),
        output,
        at_once(added, judge),
        max_concurrency=judge.max_concurrency,
        label="label",
    )


@app.command(
    name="eval",
    epilog="Example: cai eval examples/quickstart.yaml, or "
    "cai eval --only refusal --model smollm2 --constitution harmless --data prompts.jsonl --output scores.jsonl",
)
def evaluate(
    file: RunFile = None,
    only: Annotated[str | None, typer.Option(metavar="NAME", help=f"Without RUN.yaml: {', '.join(EVALUATIONS)}.")] = None,
    model: Model = None,
    data: Annotated[Path | None, typer.Option("--data", help="Prompts with a kind.")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Score rows; replies lie beside, as .items.jsonl.")] = None,
    constitution: Annotated[str, typer.Option(help="Without RUN.yaml: whose rubric grades.")] = "refusal_style",
    draws: Annotated[int, typer.Option(min=1, help="Replies per prompt.")] = 1,
    temperature: Annotated[float, typer.Option(min=0)] = 0.7,
    max_reply: Annotated[int, typer.Option("--max-reply", min=1, help="Tokens of a reply.")] = 64,
    seed: Seed = 0,
    connections: Connections = None,
    settings: Settings = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
) -> None:
    """Score models on held-out prompts: a run's stage, or one evaluation of one model."""
    options = {"only": only, "model": model, "data": data, "output": output}
    alone("eval", file, **options, connections=connections)
    if file is not None:
        walk_run(file, ("eval",), settings, max_cost=max_cost, max_tokens=max_tokens, max_hours=max_hours)
        return
    needed("eval", settings, **options)
    if only not in EVALUATIONS:
        raise UsageError(f"--only {only}: no such evaluation; known: {', '.join(EVALUATIONS)}")
    quiet()
    from cai import store
    from cai.async_map import map_rows
    from cai.constitution import find, load_constitution
    from cai.data.readers import prompt_rows
    from cai.evals.refusal import refusal_scores
    from cai.evals.replies import EvalConfig, item_of, items, replier
    from cai.progress import progress_bars
    from cai.records import EvalReply
    from cai.rubric import compile_rubric

    assert model is not None and data is not None and output is not None  # noqa: PT018, S101
    rubric = load_constitution(find(constitution)).rubric
    if rubric is None:
        raise ConfigError(f"{constitution}: no rubric in it")
    if output == STREAM:
        raise UsageError("eval: --output names a file: items lie beside it")
    budget = limits("eval", max_cost, max_tokens, max_hours)
    lm = open_logged(model, output, connections, budget)
    config = EvalConfig(draws=draws, temperature=temperature, max_tokens=max_reply)
    prompts = list(prompt_rows(data))
    asked = items(prompts, config.draws)
    beside = output.with_suffix(".items.jsonl")
    told = {
        "config": store.digest(config),
        "seed": str(seed),
        "model": lm.fingerprint,
        "data": store.digest(*(p.line() for p in prompts)),
    }
    store.begin(beside, "eval", told | {"rubric": store.digest(rubric)})
    with progress_bars() as progress:
        step, bar = replier(model, lm, compile_rubric(rubric), config, seed), progress("eval")

        async def work() -> None:
            try:
                await map_rows(beside, asked, step, EvalReply, max_concurrency=lm.max_concurrency, source=item_of, progress=bar)
            finally:
                await lm.aclose()

        asyncio.run(work())
    scores = refusal_scores(list(store.read(beside, EvalReply)), seed=seed)
    store.atomic_write(output, "".join(row.line() + "\n" for row in scores))
    for row in scores:
        print(f"{row.metric:<44} {'–' if row.mean is None else f'{row.mean:.3f}'} n={row.n}")
