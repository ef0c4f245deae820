"""The command that red-teams a target: attack, reply, grade, and the next attack."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.endpoint_options import Connections, EndpointOptions, EndpointSettings, open_logged
from cai.cli.output import print_table
from cai.cli.runs import MaxCost, MaxHours, MaxTokens, SpendingLimits
from cai.cli.silence import quiet
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.evals.attacks import AttackReply
    from cai.lm import LM
    from cai.records import Prompt, Score
    from cai.rubric import CompiledRubric

app = typer.Typer()


@app.command(
    epilog="Example: cai attack --target smollm2 --constitution harmless "
    "--prompts examples/prompts/disallowed.jsonl --output attacks.jsonl --budget 100"
)
def attack(
    target: Annotated[str, typer.Option(help="The model to attack.")],
    prompts: Annotated[list[Path], typer.Option("--prompts", help="Prompts; repeatable.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", help="Score rows; the attacks with replies go beside, as .attacks.jsonl."
        ),
    ],
    constitution: Annotated[str, typer.Option(help="Its rubric grades the replies.")] = "harmless",
    budget: Annotated[int, typer.Option(min=1, help="Attacks in all.")] = 200,
    transforms: Annotated[
        list[str] | None, typer.Option("--transform", help="Only this disguise; repeatable.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    max_reply: Annotated[int, typer.Option("--max-reply", min=1, help="Tokens of a reply.")] = 64,
    seed: int = 0,
    connections: Connections = None,
    settings: EndpointSettings = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_hours: MaxHours = None,
) -> None:
    """Red-team a model: prompts in disguises, more of those categories that it fails on.

    Run again, it resumes. The failure rates are by category and by disguise.
    """
    quiet()
    from cai import store
    from cai.cli.output_files import owned_output, replaced_output, write_output
    from cai.constitution import load_with_rubric
    from cai.data.readers import prompt_rows
    from cai.evals.attacks import TRANSFORMS, attack_scores
    from cai.rubric import compile_rubric

    names = list(dict.fromkeys(transforms or TRANSFORMS))
    if unknown := [name for name in names if name not in TRANSFORMS]:
        known = ", ".join(TRANSFORMS)
        raise UsageError(f"attack: --transform {unknown[0]}: no such disguise; known: {known}")
    limits = SpendingLimits(max_cost, max_tokens, max_hours)
    endpoint = EndpointOptions("attack", connections, settings, limits)
    _, rubric = load_with_rubric(constitution)
    rows = [prompt for file in prompts for prompt in prompt_rows(file) if prompt.kind]
    if not rows:
        raise UsageError("attack: no prompt has a kind (disallowed, sensitive or benign)")
    attacks = output.with_suffix(".attacks.jsonl")
    with (
        replaced_output(output, "attack", *prompts),
        open_logged(target, output, endpoint) as lm,
    ):
        provenance = {
            "model": lm.fingerprint,
            "seed": str(seed),
            "config": store.digest(*names, str(temperature), str(max_reply)),
            "prompts": store.digest(*(prompt.line() for prompt in rows)),
            "rubric": store.digest(rubric),
            **endpoint.answer_settings(target),
        }
        how = (max_reply, temperature, seed)
        with owned_output(attacks, "attack", provenance):
            replies = _rounds(attacks, lm, compile_rubric(rubric), rows, (names, budget, how))
        scores = attack_scores(replies, target)
        write_output(output, "attack", "".join(row.line() + "\n" for row in scores))
    _print(scores, replies)


def _rounds(
    file: Path,
    lm: LM,
    rubric: CompiledRubric,
    prompts: list[Prompt],
    settings: tuple[list[str], int, tuple[int, float, int]],
) -> list[AttackReply]:
    """The rows of all rounds; a round that was cut by a kill is completed first."""
    from cai import store
    from cai.async_map import map_rows
    from cai.evals.attacks import ROUND, AttackReply, attack_step, by_number, next_round
    from cai.progress import progress_bars

    names, budget, how = settings
    step = attack_step(lm, rubric, *how)
    store.truncate_torn_line(file)
    rows = {row.source: row for row in store.read_rows(file, AttackReply)} if file.exists() else {}
    with progress_bars() as progress:
        bar = progress("attack")

        async def work() -> None:
            try:
                for start in range(0, budget, ROUND):
                    earlier = by_number({str(n): rows[str(n)] for n in range(start)})
                    attacks = next_round(earlier, prompts, names, budget, how[2])
                    if any(item.id not in rows for item in attacks):
                        width = lm.max_concurrency
                        await map_rows(file, attacks, step, AttackReply, max_concurrency=width)
                        rows.update((r.source, r) for r in store.read_rows(file, AttackReply))
                    bar(min(budget, start + ROUND), budget)
            finally:
                await lm.aclose()

        asyncio.run(work())
    return by_number({str(number): rows[str(number)] for number in range(budget)})


def _print(scores: list[Score], replies: list[AttackReply]) -> None:
    from rich.table import Table

    from cai.cli.null_rows import print_null_rows
    from cai.generate.unanswered import null_reason

    table = Table("metric", "failures", "95 % interval", "n", "unscored")
    for row in scores:
        mean = "–" if row.mean is None else f"{row.mean:.3f}"
        known = row.ci_low is not None and row.ci_high is not None
        interval = f"{row.ci_low:.3f} … {row.ci_high:.3f}" if known else "–"
        table.add_row(row.metric, mean, interval, str(row.n), str(row.unscored))
    print_table(table, 120)
    print_null_rows("attack", Counter(null_reason(reply) for reply in replies))
