"""The command that filters and deduplicates prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.data.dedupe import Cleaned
    from cai.data.filters import HygieneConfig, PromptFilters
    from cai.records import Prompt

app = typer.Typer()


@app.command(
    epilog="Example: cai clean prompts.jsonl --output clean.jsonl --near 0.8 --pii mask "
    "--language en --max-tokens 300"
)
def clean(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="JSONL, CSV, Parquet, a saved datasets folder, or hub:OWNER/NAME#SPLIT.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", help="JSONL (or .parquet) of the prompts kept.")
    ] = None,
    min_tokens: Annotated[int | None, typer.Option(min=1, help="Drop shorter prompts.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Drop longer prompts.")] = None,
    model: Annotated[str, typer.Option(help="The tokenizer that counts tokens.")] = "smollm2",
    languages: Annotated[
        list[str] | None,
        typer.Option("--language", metavar="CODE", help="Keep this language; repeatable."),
    ] = None,
    pii: Annotated[str, typer.Option(help="Personal data: keep, mask or drop.")] = "keep",
    region: Annotated[str, typer.Option(help="Country whose phone numbers have no +.")] = "US",
    per_user: Annotated[
        int | None, typer.Option(min=1, help="Keep at most this many prompts of a user.")
    ] = None,
    prefix: Annotated[
        int | None,
        typer.Option(min=20, help="Keep one of prompts with the same first N characters."),
    ] = None,
    near: Annotated[
        float | None,
        typer.Option(help="Drop prompts at least this similar to an earlier one (0.5 to 1)."),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Evaluation prompts, whose text is dropped; repeatable."),
    ] = None,
    ngram: Annotated[int, typer.Option(min=3, help="With --against: words in a row to match.")] = 8,
    explain: Annotated[
        str | None, typer.Option(metavar="ID", help="Print why this prompt is kept or dropped.")
    ] = None,
) -> None:
    """Keep the prompts that are fit for training, and count the others by reason."""
    if output is None and explain is None:
        raise UsageError(
            "clean: say where what stays goes (--output FILE), "
            "or which prompt to explain (--explain ID)"
        )
    config = _hygiene_config(
        min_tokens=min_tokens,
        max_tokens=max_tokens,
        languages=tuple(languages or ()),
        pii=pii,
        region=region,
        per_user=per_user,
        prefix=prefix,
        near=near,
        ngram=ngram,
        against=tuple(map(str, against or ())),
    )
    _clean_files(files, config, model, output, explain)


def _hygiene_config(**options: object) -> HygieneConfig:
    from pydantic import ValidationError

    from cai.data.filters import HygieneConfig

    try:
        return HygieneConfig.model_validate(options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"clean: --{option}: {first['msg']}") from None


def _clean_files(
    files: list[Path], config: HygieneConfig, model: str, output: Path | None, explain: str | None
) -> None:
    from cai.data.dedupe import clean, filtered_prompts
    from cai.data.readers import prompt_rows
    from cai.data.writers import write_prompts
    from cai.progress import progress_bars

    def read() -> Iterator[Prompt]:
        for file in files:
            yield from prompt_rows(file)

    rules = _rules(config, model)
    with progress_bars() as progress:
        bar = progress("clean")
        result = clean(read, config, rules, lambda done: bar(done, done + 1))
    if explain is not None:
        _print_explanation(explain, read, result)
        return
    if output is not None:
        write_prompts(output, filtered_prompts(read, rules, result))
    _print_counts(result)


def _rules(config: HygieneConfig, model: str) -> PromptFilters:
    from cai.data.filters import PromptFilters, conversation_text, needs_token_counts
    from cai.data.readers import prompt_rows

    evaluation_texts = (
        conversation_text(prompt) for file in config.against for prompt in prompt_rows(Path(file))
    )
    count_tokens: Callable[[str], int] = len
    if needs_token_counts(config):
        quiet()
        from cai.modeling.tokenization import token_counter

        count_tokens = token_counter(model)
    return PromptFilters(config, count_tokens, evaluation_texts)


def _print_explanation(id: str, read: Callable[[], Iterator[Prompt]], result: Cleaned) -> None:
    for index, prompt in enumerate(read()):
        if prompt.id != id:
            continue
        reason = result.reasons[result.codes[index]] or "kept"
        repeats = ""
        twin = int(result.duplicate_of[index])
        if twin >= 0:
            repeated = next(islice(read(), twin, None))
            repeats = f" (as {repeated.id}, row {twin + 1})"
        print(f"{id}: {reason}{repeats}")
        return
    raise UsageError(f"--explain {id}: no prompt has this id")


def _print_counts(result: Cleaned) -> None:
    from rich.table import Table

    total = len(result.codes)
    table = Table("result", "prompts", "share")
    for reason, count in result.counts.most_common():
        table.add_row(reason, f"{count:,}", f"{count / total:.1%}" if total else "–")
    print_table(table)
