"""The command that has a model write texts about a constitution."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai.cli.endpoint_options import EndpointOptions, open_logged, with_endpoint_options
from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.constitution.schema import Principle
    from cai.generate.synthesis import SynthesisConfig, TextSelection
    from cai.lm import LM
    from cai.records import SyntheticText

app = typer.Typer()
Output = Annotated[
    Path,
    typer.Option(
        help="JSONL: documents for ppo.ptx.files, dialogues for sft.extra. All that was written "
        "goes beside it, as .attempts.jsonl."
    ),
]
OnlyPrinciples = Annotated[
    list[str] | None, typer.Option("--principle", help="Only this one; repeatable.")
]
Dialogues = Annotated[
    bool,
    typer.Option("--dialogues", help="Write messages with replies, and no documents."),
]


@app.command(
    epilog="Example: cai synthesize --constitution helpful_honest --model smollm2 "
    "--output documents.jsonl --per-principle 2"
)
@with_endpoint_options("synthesize")
def synthesize(
    constitution: Annotated[str, typer.Option(help="Whose principles the texts are about.")],
    model: Annotated[str, typer.Option(help="The model that writes.")],
    output: Output,
    dialogues: Dialogues = False,
    principle: OnlyPrinciples = None,
    per_principle: Annotated[int, typer.Option(min=1, help="Texts wanted per principle.")] = 4,
    tries: Annotated[int, typer.Option(min=1, help="Texts, at most, per text wanted.")] = 3,
    max_reply: Annotated[int, typer.Option(min=1, help="Tokens of a text.")] = 256,
    temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    seed: int = 0,
    *,
    endpoint: EndpointOptions,
) -> None:
    """Have a model write texts that explain a constitution's principles, or dialogues by them.

    Run again, it resumes. Exit 1 when a principle has too few.
    """
    quiet()
    from cai.cli.output_files import replaced_output, write_output
    from cai.constitution import load_constitution
    from cai.generate.synthesis import SynthesisConfig

    config = SynthesisConfig(
        genre="dialogues" if dialogues else "documents",
        per_principle=per_principle,
        tries=tries,
        temperature=temperature,
        max_tokens=max_reply,
    )
    principles = chosen_principles(load_constitution(constitution).principles, principle)
    with replaced_output(output, "synthesize"), open_logged(model, output, endpoint) as author:
        answers = endpoint.answer_settings(model)
        taken = _write(output, principles, author, config, seed, answers)
        lines = (json.dumps(output_row(text), ensure_ascii=False) + "\n" for text in taken.texts)
        write_output(output, "synthesize", "".join(lines))
    _print_coverage(taken, principles)
    if any(taken.count(p.id) < per_principle for p in principles):
        raise typer.Exit(1)


def chosen_principles(
    principles: Sequence[Principle], names: Sequence[str] | None
) -> list[Principle]:
    """The principles of these names; all, if there are no names.

    Raises:
        UsageError: no such principle, or none at all.
    """
    known = {principle.id: principle for principle in principles}
    for name in names or ():
        if name not in known:
            raise UsageError(f"--principle {name}: no such principle; they are {', '.join(known)}")
    if not known:
        raise UsageError("synthesize: the constitution has no principle")
    return [known[name] for name in dict.fromkeys(names or known)]


def output_row(text: SyntheticText) -> dict[str, str]:
    """A row that `ppo.ptx.files` or `sft.extra` reads."""
    about = {"principle": text.principle, "form": text.form}
    if text.message is None:
        return {"text": text.text or "", **about}
    return {"prompt": text.message, "response": text.text or "", **about}


def _write(
    output: Path,
    principles: Sequence[Principle],
    author: LM,
    config: SynthesisConfig,
    seed: int,
    answers: dict[str, str],
) -> TextSelection:
    """Ask for the texts that are missing, and again for those without an answer for now."""
    from cai import store
    from cai.cli.output_files import owned_output
    from cai.generate.synthesis import ask_unanswered_again, write_texts
    from cai.progress import progress_bars

    attempts = output.with_suffix(".attempts.jsonl")
    provenance = {
        "model": author.fingerprint,
        "seed": str(seed),
        "config": store.digest(config),
        "principles": store.digest(*principles),
        **answers,
    }

    async def closing(work: Any) -> Any:
        try:
            return await work
        finally:
            await author.aclose()

    # twice, because the file that holds the lock is replaced
    with owned_output(attempts, "synthesize", provenance):
        again = ask_unanswered_again(attempts, principles, author, config, seed=seed)
        if count := asyncio.run(closing(again)):
            print(f"synthesize: {count} unanswered texts were asked again", file=sys.stderr)
    with owned_output(attempts, "synthesize", provenance), progress_bars() as progress:
        bar = progress("synthesize")
        work = write_texts(attempts, principles, author, config, seed=seed, progress=bar)
        taken: TextSelection = asyncio.run(closing(work))
    return taken


def _print_coverage(taken: TextSelection, principles: Sequence[Principle]) -> None:
    from rich.table import Table

    table = Table("principle", "texts", "forms", "rejected")
    for p in principles:
        forms = Counter(text.form for text in taken.texts if text.principle == p.id)
        rejected = [
            f"{count} {reason}"
            for (principle, reason), count in taken.reasons.items()
            if principle == p.id and reason != "taken"
        ]
        listed = ", ".join(f"{count} {form}" for form, count in forms.items())
        table.add_row(p.id, str(taken.count(p.id)), listed or "–", ", ".join(rejected) or "–")
    print_table(table, 120)
