"""The command that filters and deduplicates prompts."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.columns import Columns, column_names
from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import StoreError, UsageError

if TYPE_CHECKING:
    from cai.data.dedupe import Cleaned
    from cai.data.filters import HygieneConfig, PromptFilters
    from cai.records import Prompt

app = typer.Typer()

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...",
        help="JSON, JSONL, CSV, Parquet, a folder, hub:OWNER/NAME#SPLIT, or - (JSON).",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="JSONL (or .parquet) of the prompts kept; - is stdout."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at a wrong row instead of skipping it.")
]
MinTokens = Annotated[int | None, typer.Option(min=1, help="Drop shorter prompts.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Drop longer prompts.")]
Tokenizer = Annotated[str, typer.Option(help="The tokenizer that counts tokens.")]
Languages = Annotated[
    list[str] | None,
    typer.Option("--language", metavar="CODE", help="Keep this language; repeatable."),
]
PersonalData = Annotated[str, typer.Option(help="Personal data: keep, mask or drop.")]
Region = Annotated[str, typer.Option(help="Country whose phone numbers have no +.")]
PerUser = Annotated[
    int | None, typer.Option(min=1, help="Keep at most this many prompts of a user.")
]
SamePrefix = Annotated[
    int | None,
    typer.Option(min=20, help="Keep one of prompts with the same first N characters."),
]
Near = Annotated[
    float | None,
    typer.Option(help="Drop prompts at least this similar to an earlier one (0.5 to 1)."),
]
Against = Annotated[
    list[Path] | None,
    typer.Option(help="Evaluation prompts, whose text is dropped; repeatable."),
]
NgramSize = Annotated[int, typer.Option(min=3, help="With --against: words in a row to match.")]
Explain = Annotated[
    str | None, typer.Option(metavar="ID", help="Print why this prompt is kept or dropped.")
]

STREAM = Path("-")
SHOWN_ROWS = 5
"""Wrong rows that are named; the others are counted."""


@app.command(
    epilog="Example: cai clean prompts.jsonl --output clean.jsonl --near 0.8 --pii mask "
    "--language en --max-tokens 300"
)
def clean(
    files: Files,
    output: Output = None,
    columns: Columns = None,
    strict: Strict = False,
    min_tokens: MinTokens = None,
    max_tokens: MaxTokens = None,
    model: Tokenizer = "smollm2",
    languages: Languages = None,
    pii: PersonalData = "keep",
    region: Region = "US",
    per_user: PerUser = None,
    prefix: SamePrefix = None,
    near: Near = None,
    against: Against = None,
    ngram: NgramSize = 8,
    explain: Explain = None,
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
    with (
        _output_held(output, (*files, *(against or ())), explain is None),
        _reusable(files) as inputs,
    ):
        source = _Inputs(inputs, column_names(columns), strict)
        _clean_inputs(source, config, model, output, explain)


def _output_held(
    output: Path | None, sources: Sequence[Path], is_written: bool
) -> contextlib.AbstractContextManager[None]:
    """Inside, this process alone writes the output, if that is a file."""
    if output is None:
        return contextlib.nullcontext()
    from cai.cli.output_files import is_stream, replaced_output
    from cai.data.writers import check_suffix

    check_suffix(output)
    if is_stream(output) or not is_written:
        return contextlib.nullcontext()
    return replaced_output(output, "clean", *sources)


@contextlib.contextmanager
def _reusable(files: Sequence[Path]) -> Iterator[list[tuple[Path, str]]]:
    """(path, name) of every file; pipes are copied to disk, since files are read twice."""
    from cai.json_input import open_input

    with tempfile.TemporaryDirectory(prefix="cai-") as folder:
        inputs = []
        for index, file in enumerate(files):
            path = file
            if file == STREAM or file.is_fifo() or file.is_char_device():
                path = Path(folder) / str(index)
                with open_input(file) as source, path.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
            inputs.append((path, str(file)))
        yield inputs


class _Inputs:
    """The prompts of several files, which can be read several times."""

    def __init__(
        self, files: Sequence[tuple[Path, str]], columns: dict[str, str], strict: bool
    ) -> None:
        self.files = files
        self.columns = columns
        self.strict = strict
        self.skipped: list[str] = []
        """Messages of the wrong rows of the last reading."""

    def read(self) -> Iterator[Prompt]:
        from cai.data.readers import ReadOptions, prompt_rows

        self.skipped.clear()
        skip = None if self.strict else self._skip
        for path, name in self.files:
            yield from prompt_rows(path, ReadOptions(self.columns, skip, name))

    def _skip(self, error: StoreError) -> None:
        self.skipped.append(str(error))

    def report(self, kept_rows: int) -> None:
        """Name the first wrong rows on standard error.

        Raises:
            StoreError: no row could be read.
        """
        if not kept_rows:
            names = ", ".join(name for _, name in self.files)
            raise StoreError(self.skipped[0] if self.skipped else f"{names}: no prompt in it")
        for message in self.skipped[:SHOWN_ROWS]:
            print(f"skipped {message}", file=sys.stderr)
        if len(self.skipped) > SHOWN_ROWS:
            print(f"skipped {len(self.skipped) - SHOWN_ROWS:,} more rows", file=sys.stderr)


def _hygiene_config(**options: object) -> HygieneConfig:
    from pydantic import ValidationError

    from cai.data.filters import HygieneConfig

    try:
        return HygieneConfig.model_validate(options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"clean: --{option}: {first['msg']}") from None


def _clean_inputs(
    inputs: _Inputs, config: HygieneConfig, model: str, output: Path | None, explain: str | None
) -> None:
    from cai.data.dedupe import clean, kept_lines
    from cai.progress import progress_bars

    rules = _rules(config, model, inputs.columns)
    with tempfile.TemporaryFile() as lines:
        with progress_bars() as progress:
            bar = progress("clean")
            written = lines if explain is None else None
            result = clean(
                inputs.read, config, rules, lambda done: bar(done, done + 1), lines=written
            )
        inputs.report(len(result.codes))
        if explain is not None:
            _print_explanation(explain, inputs.read, result)
            return
        _write_kept(kept_lines(lines, result), output)
    if output != STREAM:
        _print_counts(result, len(inputs.skipped))


def _write_kept(lines: Iterator[bytes], output: Path | None) -> None:
    from cai.cli.output_files import is_stream, replacing
    from cai.data.writers import write_prompt_lines

    if output is None:
        return
    if output == STREAM:
        for line in lines:
            # bytes: data is UTF-8, whatever the terminal's encoding
            sys.stdout.buffer.write(line)
    elif is_stream(output):
        with output.open("ab") as stream:
            stream.writelines(lines)
    else:
        with replacing(output, "clean"):
            write_prompt_lines(output, lines)


def _rules(config: HygieneConfig, model: str, columns: dict[str, str]) -> PromptFilters:
    from cai.data.filters import PromptFilters, compared_text, needs_token_counts
    from cai.data.readers import ReadOptions, prompt_rows

    options = ReadOptions(columns)
    evaluation_texts = (
        compared_text(prompt)
        for file in config.against
        for prompt in prompt_rows(Path(file), options)
    )
    count_tokens: Callable[[str], int] = len
    if needs_token_counts(config):
        quiet()
        from cai.modeling.token_counts import token_counter

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


def _print_counts(result: Cleaned, skipped: int) -> None:
    from rich.table import Table

    total = len(result.codes) + skipped
    table = Table("result", "prompts", "share")
    for reason, count in (result.counts + Counter({"wrong row": skipped})).most_common():
        table.add_row(reason, f"{count:,}", f"{count / total:.1%}")
    print_table(table)
