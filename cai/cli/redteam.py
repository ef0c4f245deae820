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
    from cai.generate.redteam import Taken
    from cai.records import Prompt

app = typer.Typer()


@app.command(
    epilog="Example: cai redteam --constitution harmless --model smollm2 --seeds examples/prompts/disallowed.jsonl "
    "--output more.jsonl --per-category 5"
)
def redteam(
    constitution: Annotated[str, typer.Option(help="Its categories are written for; its rubric tells refusals from messages.")],
    model: Annotated[str, typer.Option(help="Who writes.")],
    seeds: Annotated[list[Path], typer.Option("--seeds", help="Prompts to begin from; repeatable.")],
    output: Annotated[
        Path, typer.Option("--output", help="JSONL of prompts. What was written lies beside it, as .attempts.jsonl.")
    ],
    category: Annotated[list[str] | None, typer.Option(help="Only this category; repeatable.")] = None,
    per_category: Annotated[int, typer.Option(min=1, help="Prompts wanted in each.")] = 20,
    tries: Annotated[int, typer.Option(min=1, help="Messages asked for, at most, per prompt wanted.")] = 5,
    near: Annotated[float, typer.Option(min=0.05, max=1, help="As alike as this to another one: not taken.")] = 0.5,
    temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    kind: Annotated[Kind, typer.Option(help="disallowed, sensitive or benign: what the prompts are.")] = "disallowed",
    seed: int = 0,
) -> None:
    """Have a model write prompts like the seeds, category by category, until there are enough that differ. Resumes."""
    quiet()
    from cai import store
    from cai.constitution import find, load_constitution
    from cai.data.readers import prompt_rows
    from cai.generate.redteam import RedteamConfig, write_messages
    from cai.lm import open_lm
    from cai.progress import progress_bars

    loaded, author = load_constitution(find(constitution)), open_lm(model)
    config = RedteamConfig(per_category=per_category, tries=tries, near=near, temperature=temperature, kind=kind)
    begun = [prompt for file in seeds for prompt in prompt_rows(file)]
    ours = list(dict.fromkeys(p.category for p in loaded.principles if kind in p.applies_to))
    categories = category or ours
    if not begun or not categories:
        missing = "no seed prompt to begin from" if not begun else f"no principle in {constitution} is about {kind} prompts"
        raise UsageError(f"redteam: {missing}")
    attempts = output.with_suffix(".attempts.jsonl")
    told = store.digest(*(prompt.line() for prompt in begun))
    store.begin(
        attempts, "redteam", {"model": author.fingerprint, "seed": str(seed), "config": store.digest(config), "seeds": told}
    )
    with progress_bars() as progress:
        bar = progress("redteam")
        gate, origin = _gate(loaded.rubric), f"written by {model}"
        work = write_messages(attempts, categories, begun, author, config, gate, seed=seed, origin=origin, progress=bar)
        found = asyncio.run(work)
    store.atomic_write(output, "".join(prompt.line() + "\n" for prompt in found.prompts))
    _tell(found, categories)
    if any(found.count(name) < per_category for name in categories):
        raise typer.Exit(1)


def _gate(rubric: Rubric | None) -> Gate:
    """Against refusals to write anything, which the rubric knows, and against what is no message."""
    from cai.generate.filters import not_degenerate
    from cai.rubric import compile_rubric, grade

    compiled = compile_rubric(rubric) if rubric else None

    def gate(prompt: Prompt, text: str) -> str | None:
        if compiled and grade(compiled, prompt="", response=text, kind=None).degree == "full_refusal":
            return "declined"
        return "too short" if len(text.split()) < 3 else not_degenerate(prompt, text)

    return gate


def _tell(found: Taken, categories: Sequence[str]) -> None:
    from rich.table import Table

    from cai.generate.diversity import monitors

    table = Table("category", "taken", "not taken")
    for name in categories:
        others = [f"{n} {reason}" for (of, reason), n in found.reasons.items() if of == name and reason != "taken"]
        table.add_row(name, str(found.count(name)), ", ".join(others) or "–")
    print_table(table)
    seen = monitors([prompt.chat[-1].content for prompt in found.prompts])
    if seen.words is not None and seen.distinct_1 is not None:
        pairs = "–" if seen.distinct_2 is None else f"{seen.distinct_2:.2f}"
        print(f"{len(found.prompts)} prompts of {seen.words:.0f} words: distinct-1 {seen.distinct_1:.2f}, distinct-2 {pairs}")
