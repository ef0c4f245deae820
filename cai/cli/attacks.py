"""The command that red-teams a target: attack, reply, grade, and the next turn or attack."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.attack_rounds import make_attacks
from cai.cli.attack_setup import (
    AttackSetup,
    chosen_disguises,
    endpoint_settings,
    open_models,
    translation_into,
)
from cai.cli.endpoint_options import EndpointOptions, with_endpoint_options
from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.records import Score

app = typer.Typer()
MAX_TURNS = 20


@app.command(
    epilog="Example: cai attack --target smollm2 --constitution harmless "
    "--prompts examples/prompts/disallowed.jsonl --output attacks.jsonl --budget 100 --turns 3"
)
@with_endpoint_options("attack")
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
    templates: Annotated[
        Path | None,
        typer.Option(help="Templates as disguises too: a file or a folder, as for jailbreak."),
    ] = None,
    translator: Annotated[
        str | None,
        typer.Option(help="A model that translates prompts, and replies back; with --language."),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="The language of the disguise translation.")
    ] = None,
    turns: Annotated[int, typer.Option(min=1, max=MAX_TURNS, help="Most turns of an attack.")] = 1,
    attacker: Annotated[
        str | None,
        typer.Option(help="A model that writes the user's next turns; without: a fixed ladder."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Decides the propositions that patterns leave undecided.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    max_reply: Annotated[int, typer.Option("--max-reply", min=1, help="Tokens of a reply.")] = 64,
    seed: int = 0,
    *,
    endpoint: EndpointOptions,
) -> None:
    """Red-team a model: prompts in disguises, more of those categories that it fails on.

    An attack of several turns ends with the first failure. Run again, it resumes. The failure rates
    are by category, by disguise and by turn.
    """
    quiet()
    from cai.attacks.target import attack_scores
    from cai.cli.output_files import owned_output, replaced_output, write_output
    from cai.data.readers import prompt_rows
    from cai.evals.replies import EvalConfig

    if attacker is not None and turns == 1:
        raise UsageError("attack: --attacker writes turns after the first: give --turns 2 or more")
    disguises = chosen_disguises(
        transforms or (), templates, translation_into(translator, language)
    )
    rows = [prompt for file in prompts for prompt in prompt_rows(file) if prompt.kind]
    if not rows:
        raise UsageError("attack: no prompt has a kind (disallowed, sensitive or benign)")
    roles = {"model": target, "attacker": attacker, "translator": translator, "judge": judge}
    specs = {role: spec for role, spec in roles.items() if spec is not None}
    setup = AttackSetup(constitution, disguises, language or "", seed)
    file = output.with_suffix(".attacks.jsonl")
    with (
        replaced_output(output, "attack", *prompts),
        open_models(specs, output, endpoint) as models,
    ):
        config = EvalConfig(temperature=temperature, max_tokens=max_reply)
        step, decided = setup.step(target, models, config)
        decided |= {role: lm.fingerprint for role, lm in models.items()}
        decided |= setup.digests(rows, turns) | endpoint_settings(specs, endpoint)
        with owned_output(file, "attack", decided):
            plan = setup.plan(rows, budget, turns)
            replies = make_attacks(file, plan, step, list(models.values()))
        scores = attack_scores(replies, target, turns)
        write_output(output, "attack", "".join(row.line() + "\n" for row in scores))
    _print(scores, Counter(row.unscored for row in replies))


def _print(scores: list[Score], reasons: Counter[str | None]) -> None:
    from rich.table import Table

    from cai.cli.null_rows import print_null_rows

    table = Table("metric", "failures", "95 % interval", "n", "unscored")
    for row in scores:
        mean = "–" if row.mean is None else f"{row.mean:.3f}"
        known = row.ci_low is not None and row.ci_high is not None
        interval = f"{row.ci_low:.3f} … {row.ci_high:.3f}" if known else "–"
        table.add_row(row.metric, mean, interval, str(row.n), str(row.unscored))
    print_table(table, 120)
    print_null_rows("attack", reasons)
