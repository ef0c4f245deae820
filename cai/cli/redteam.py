"""The command that has a model write test prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import UsageError
from cai.records import Kind

if TYPE_CHECKING:
    from cai.constitution.schema import Rubric
    from cai.generate.filters import Gate
    from cai.generate.redteam import MessageSelection, RedteamConfig
    from cai.lm import LM
    from cai.records import Prompt

app = typer.Typer()
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        help="JSONL of prompts. All that the model wrote goes beside it, as .attempts.jsonl.",
    ),
]
ConstitutionName = Annotated[
    str, typer.Option(help="Gives the categories, and the rubric that recognizes refusals.")
]
PromptKind = Annotated[
    Kind, typer.Option(help="Kind of the prompts: disallowed, sensitive or benign.")
]
Near = Annotated[
    float, typer.Option(min=0.05, max=1, help="Reject prompts at least this similar to another.")
]


@app.command(
    epilog="Example: cai redteam --constitution harmless --model smollm2 "
    "--seeds examples/prompts/disallowed.jsonl --output more.jsonl --per-category 5"
)
def redteam(
    constitution: ConstitutionName,
    model: Annotated[str, typer.Option(help="The model that writes.")],
    seeds: Annotated[list[Path], typer.Option("--seeds", help="Seed prompts; repeatable.")],
    output: Output,
    category: Annotated[list[str] | None, typer.Option(help="Only this one; repeatable.")] = None,
    per_category: Annotated[int, typer.Option(min=1, help="Prompts wanted per category.")] = 20,
    tries: Annotated[int, typer.Option(min=1, help="Calls, at most, per prompt wanted.")] = 5,
    near: Near = 0.5,
    temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    kind: PromptKind = "disallowed",
    seed: int = 0,
) -> None:
    """Have a model write prompts like the seeds, until each category has enough different ones.

    Run again, it resumes. Exit 1 when a category has too few.
    """
    quiet()
    from cai.cli.output_files import owned_output, replaced_output, write_output
    from cai.constitution import load_constitution
    from cai.data.readers import prompt_rows
    from cai.generate.redteam import RedteamConfig, write_messages
    from cai.lm import open_lm
    from cai.progress import progress_bars

    loaded, author = load_constitution(constitution), open_lm(model)
    config = RedteamConfig(
        per_category=per_category, tries=tries, near=near, temperature=temperature, kind=kind
    )
    seed_prompts = [prompt for file in seeds for prompt in prompt_rows(file)]
    about_kind = [p.category for p in loaded.principles if kind in p.applies_to]
    categories = category or list(dict.fromkeys(about_kind))
    if not seed_prompts:
        raise UsageError("redteam: no seed prompt to begin from")
    if not categories:
        raise UsageError(f"redteam: no principle in {constitution} is about {kind} prompts")
    attempts = output.with_suffix(".attempts.jsonl")
    provenance = _provenance(seed_prompts, author, config, seed)
    with (
        replaced_output(output, "redteam", *seeds),
        owned_output(attempts, "redteam", provenance),
        progress_bars() as progress,
    ):
        work = write_messages(
            attempts,
            categories,
            seed_prompts,
            author,
            config,
            _gate(loaded.rubric),
            seed=seed,
            origin=f"written by {model}",
            progress=progress("redteam"),
        )
        results = asyncio.run(work)
        lines = [prompt.line() + "\n" for prompt in results.prompts]
        write_output(output, "redteam", "".join(lines))
    _print_results(results, categories)
    if any(results.count(name) < per_category for name in categories):
        raise typer.Exit(1)


def _provenance(
    seeds: Sequence[Prompt], author: LM, config: RedteamConfig, seed: int
) -> dict[str, str]:
    from cai import store

    return {
        "model": author.fingerprint,
        "seed": str(seed),
        "config": store.digest(config),
        "seeds": store.digest(*(prompt.line() for prompt in seeds)),
    }


def _gate(rubric: Rubric | None) -> Gate:
    """The gate against refusals, by the rubric, and against texts that are no message."""
    from cai.data.filters import spaced_words
    from cai.generate.filters import not_degenerate
    from cai.rubric import compile_rubric, grade

    compiled = compile_rubric(rubric) if rubric else None

    def gate(prompt: Prompt, text: str) -> str | None:
        if compiled:
            result = grade(compiled, prompt="", response=text, kind=None)
            if result.degree == "full_refusal":
                return "declined"
        return "too short" if len(spaced_words(text)) < 3 else not_degenerate(prompt, text)

    return gate


def _print_results(results: MessageSelection, categories: Sequence[str]) -> None:
    from rich.table import Table

    from cai.generate.diversity import diversity_metrics

    table = Table("category", "accepted", "rejected")
    for name in categories:
        rejected = [
            f"{count} {reason}"
            for (category, reason), count in results.reasons.items()
            if category == name and reason != "taken"
        ]
        table.add_row(name, str(results.count(name)), ", ".join(rejected) or "–")
    print_table(table)
    diversity = diversity_metrics([prompt.chat[-1].content for prompt in results.prompts])
    if diversity.words is None or diversity.distinct_1 is None:
        return
    bigrams = "–" if diversity.distinct_2 is None else f"{diversity.distinct_2:.2f}"
    print(
        f"{len(results.prompts)} prompts of {diversity.words:.0f} words: "
        f"distinct-1 {diversity.distinct_1:.2f}, distinct-2 {bigrams}"
    )
