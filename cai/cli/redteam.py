"""The command that has a model write test prompts."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from cai.cli.endpoint_options import EndpointOptions, open_logged, with_endpoint_options
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
T = TypeVar("T")
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
@with_endpoint_options("redteam")
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
    *,
    endpoint: EndpointOptions,
) -> None:
    """Have a model write prompts like the seeds, until each category has enough different ones.

    Run again, it resumes. Exit 1 when a category has too few.
    """
    quiet()
    from cai.cli.output_files import replaced_output, write_output
    from cai.constitution import load_constitution
    from cai.data.readers import prompt_rows
    from cai.generate.redteam import RedteamConfig

    loaded = load_constitution(constitution)
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
    with (
        replaced_output(output, "redteam", *seeds),
        open_logged(model, output, endpoint) as author,
    ):
        task = _Task(author, seed_prompts, config, seed, f"written by {model}")
        settings_of_answers = endpoint.answer_settings(model)
        results = _write(output, task, categories, _gate(loaded.rubric), settings_of_answers)
        lines = [prompt.line() + "\n" for prompt in results.prompts]
        write_output(output, "redteam", "".join(lines))
    _print_results(results, categories)
    _print_unanswered(_attempts_file(output))
    if any(results.count(name) < per_category for name in categories):
        raise typer.Exit(1)


class _Task(NamedTuple):
    """What decides the messages."""

    author: LM
    seeds: list[Prompt]
    config: RedteamConfig
    seed: int
    origin: str


def _attempts_file(output: Path) -> Path:
    return output.with_suffix(".attempts.jsonl")


def _write(
    output: Path,
    task: _Task,
    categories: Sequence[str],
    gate: Gate,
    settings: Mapping[str, str],
) -> MessageSelection:
    """Request the messages that are missing, and again those without an answer for now."""
    from cai.cli.output_files import owned_output
    from cai.generate.redteam import ask_unanswered_again, write_messages
    from cai.progress import progress_bars

    attempts = _attempts_file(output)
    author, seeds, config, seed, origin = task
    provenance = _provenance(seeds, author, config, seed) | dict(settings)

    async def closing(work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        finally:
            await author.aclose()

    # twice, because the file that holds the lock is replaced
    with owned_output(attempts, "redteam", provenance):
        again = asyncio.run(
            closing(ask_unanswered_again(attempts, seeds, author, config, seed=seed))
        )
        if again:
            print(f"redteam: {again} unanswered messages were asked again", file=sys.stderr)
    with owned_output(attempts, "redteam", provenance), progress_bars() as progress:
        bar = progress("redteam")
        work = write_messages(
            attempts, categories, seeds, author, config, gate,
            seed=seed, origin=origin, progress=bar,
        )  # fmt: skip
        return asyncio.run(closing(work))


def _print_unanswered(attempts: Path) -> None:
    from cai import store
    from cai.cli.null_rows import print_null_rows
    from cai.generate.unanswered import null_reason
    from cai.records import Attempt

    rows = store.read_rows(attempts, Attempt)
    print_null_rows("redteam", Counter(null_reason(row) for row in rows))


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
    from cai.data.words import spaced_words
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
