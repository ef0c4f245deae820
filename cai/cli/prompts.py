"""The command that cleans prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import UsageError

app = typer.Typer()


@app.command(epilog="Example: cai clean prompts.jsonl --output clean.jsonl --near 0.8 --pii mask --language en --max-tokens 300")
def clean(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="JSONL, CSV, Parquet, a saved datasets folder, or hub:OWNER/NAME#SPLIT."),
    ],
    output: Annotated[Path | None, typer.Option("--output", help="JSONL (or .parquet) with what stays.")] = None,
    min_tokens: Annotated[int | None, typer.Option(min=1, help="Shorter ones go.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longer ones go.")] = None,
    model: Annotated[str, typer.Option(help="Whose tokens are counted.")] = "smollm2",
    languages: Annotated[
        list[str] | None, typer.Option("--language", metavar="CODE", help="Keep this language; repeatable.")
    ] = None,
    pii: Annotated[str, typer.Option(help="Personal data: keep, mask or drop.")] = "keep",
    region: Annotated[str, typer.Option(help="Country whose phone numbers have no +.")] = "US",
    per_user: Annotated[int | None, typer.Option(min=1, help="At most so many of one user.")] = None,
    prefix: Annotated[int | None, typer.Option(min=20, help="One for each beginning of so many characters.")] = None,
    near: Annotated[float | None, typer.Option(help="Drop those at least so alike to an earlier one (0.5 to 1).")] = None,
    against: Annotated[list[Path] | None, typer.Option(help="Evaluation prompts to keep out; repeatable.")] = None,
    ngram: Annotated[int, typer.Option(min=3, help="Words in a row that count as the same text.")] = 8,
    explain: Annotated[str | None, typer.Option(metavar="ID", help="Say what happens to this prompt, by its id.")] = None,
) -> None:
    """Let through the prompts that are fit for training, and count why the others are not."""
    from pydantic import ValidationError

    from cai.data.dedupe import clean, kept
    from cai.data.filters import HygieneConfig, Rules, asks_for_tokens, told
    from cai.data.readers import prompt_rows
    from cai.data.writers import write_prompts
    from cai.progress import progress_bars
    from cai.records import Prompt

    if output is None and explain is None:
        raise UsageError("clean: say where what stays goes (--output FILE), or which prompt to explain (--explain ID)")
    given: dict[str, Any] = {"min_tokens": min_tokens, "max_tokens": max_tokens, "languages": tuple(languages or ()), "pii": pii}
    given |= {"region": region, "per_user": per_user, "prefix": prefix, "near": near, "ngram": ngram}
    try:
        config = HygieneConfig(**given, against=tuple(map(str, against or ())))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(f"clean: --{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from None

    def read() -> Iterator[Prompt]:
        for file in files:
            yield from prompt_rows(file)

    evaluation = (told(prompt) for file in against or () for prompt in prompt_rows(file))
    count: Callable[[str], int] = len
    if asks_for_tokens(config):
        quiet()
        from cai.modeling.tokenization import token_counter

        count = token_counter(model)
    rules = Rules(config, count, evaluation)
    with progress_bars() as progress:
        bar = progress("clean")
        found = clean(read, config, rules, lambda done: bar(done, done + 1))
    if explain is not None:
        _explain(explain, read, found)
        return
    if output is not None:
        write_prompts(output, kept(read, rules, found))
    _table(found)


def _explain(wanted: str, read: Callable[[], Iterator[Any]], found: Any) -> None:
    for place, prompt in enumerate(read()):
        if prompt.id == wanted:
            reason = found.reasons[found.codes[place]] or "kept"
            twin = int(found.twins[place])
            other = next(p.id for i, p in enumerate(read()) if i == twin) if twin >= 0 else None
            print(f"{wanted}: {reason}{f' (as {other}, row {twin + 1})' if other else ''}")
            return
    raise UsageError(f"--explain {wanted}: no prompt has this id")


def _table(found: Any) -> None:
    from rich.table import Table

    total = len(found.codes)
    table = Table("what happened", "prompts", "share")
    for reason, count in found.counts.most_common():
        table.add_row(reason, f"{count:,}", f"{count / total:.1%}" if total else "–")
    print_table(table)
