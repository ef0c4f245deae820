"""Rows of tables: CSV, Parquet, and data sets of the library `datasets`."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from cai.errors import StoreError, blame
from cai.json_input import open_input

BATCH = 1024
"""Rows of a Parquet file in memory at a time."""
HUB = "hub:"
"""Prefix of a data set that `datasets` downloads: hub:OWNER/NAME#SPLIT."""
DELIMITERS = ",;\t"
BYTE_ORDER_MARK = "\ufeff"
SPREADSHEET_TRUTH = ("True", "False", "TRUE", "FALSE")
SHARD = re.compile(r"(?P<split>.+)-\d+-of-\d+\.[a-z]+", re.IGNORECASE)
TURNS = re.compile(r'\s*\[\s*\{\s*"(?:role|from|content|value)"')
"""The beginning of a list of turns in JSON."""
PARTS = re.compile(r'\s*(?:\[\s*\{\s*"type"\s*:\s*"text"|\{\s*"role"\s*:\s*"assistant")')
"""The beginning of a list of a text's parts, or of a turn of the assistant, in JSON."""
Rows = Iterator[tuple[int, dict[str, Any]]]
"""(line or row number, row)."""


@dataclass(frozen=True)
class Cells:
    """How the cells of a CSV file are read: all of them are text."""

    known: frozenset[str] = frozenset()
    """Names of columns, which tell the separator."""
    texts: frozenset[str] = frozenset()
    """Columns in which an empty cell is an empty text; elsewhere it is left out. A cell may hold
    the text's parts, or a turn, as JSON."""
    parsed: frozenset[str] = frozenset()
    """Columns whose cells may hold JSON: a number, true or false, an object."""
    turns: frozenset[str] = frozenset()
    """Columns whose cells may hold turns as JSON, or else text."""


ALL_TEXT = Cells()


def csv_rows(path: Path, cells: Cells, skip: Callable[[StoreError], None] | None = None) -> Rows:
    """(line, row). The first line names the columns.

    The cells are separated by commas, semicolons or tabs: whichever gives the first line a name
    in `cells.known`.

    Args:
        cells: how they are read.
        skip: called with the error of a row with too many or too few cells, which is left out.

    Raises:
        StoreError: a row has another number of cells than the header, or a quotation mark opens
            a text that does not end; as file:line.
    """
    csv.field_size_limit(1 << 24)
    with blame(StoreError, f"{path}"), open_input(path) as file:
        lines = iter(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
        header, delimiter, start = _header(lines, path, cells.known)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            number = start + reader.line_num
            try:
                values = next(reader, None)
            except csv.Error as error:
                raise StoreError(
                    f"{path}:{number}: {error}: a quotation mark inside a quoted text must be "
                    "doubled, and one that opens a text must be closed"
                ) from None
            if values is None:
                return
            if not values:
                continue
            if reason := _wrong_count(values, header):
                wrong_row = StoreError(f"{path}:{number}: {reason}")
                if skip is None:
                    raise wrong_row
                skip(wrong_row)
                continue
            yield number, _named_cells(header, values, cells)


def _named_cells(header: Sequence[str], values: Sequence[str], cells: Cells) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in zip(header, values, strict=False):
        if name and (value != "" or name in cells.texts):
            row[name] = value
            if name in cells.parsed or _is_structured(name, value, cells):
                row[name] = _parsed_cell(value)
    return row


def _is_structured(name: str, value: str, cells: Cells) -> bool:
    if name in cells.turns and TURNS.match(value):
        return True
    return name in cells.turns | cells.texts and bool(PARTS.match(value))


def _parsed_cell(text: str) -> Any:
    """The JSON that a cell holds, with True and False as spreadsheets spell them; else its text."""
    stripped = text.strip()
    try:
        return json.loads(stripped.lower() if stripped in SPREADSHEET_TRUTH else stripped)
    except (ValueError, RecursionError):
        return text


def json_row(row: Mapping[str, Any], location: str, *, is_json: bool) -> dict[str, Any]:
    """The row with values that a line of JSON can hold.

    Dates become text and decimal fractions numbers; a table's NaN is a missing value.

    Args:
        row: of a file.
        location: of the row, which begins the error message.
        is_json: whether the file is JSON, which knows no NaN.

    Raises:
        StoreError: a value has no form in JSON.
    """
    return {
        str(name): _json_value(value, f"{location}: `{name}`", is_json)
        for name, value in row.items()
    }


def _json_value(value: Any, location: str, is_json: bool) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | Decimal):
        if math.isfinite(value):
            return float(value)
        if is_json:
            raise StoreError(f"{location}: {value} is not JSON: write null for an unknown number")
        return None
    if isinstance(value, Mapping):
        return {str(key): _json_value(item, location, is_json) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item, location, is_json) for item in value]
    if isinstance(value, date | time):
        return value.isoformat()
    raise StoreError(
        f"{location}: JSON has no values of type {type(value).__name__}: leave this column out"
    )


def _header(lines: Iterator[str], path: Path, known: frozenset[str]) -> tuple[list[str], str, int]:
    """(names of the columns, delimiter, number of the line after the header)."""
    first, number, delimiters = next(lines, ""), 2, DELIMITERS
    while first and not first.lstrip(BYTE_ORDER_MARK).strip():
        first, number = next(lines, ""), number + 1
    first = first.lstrip(BYTE_ORDER_MARK)  # where empty lines come before the mark
    if match := re.fullmatch(r"sep=(.)\s*", first):  # written by spreadsheets
        first, number, delimiters = next(lines, ""), number + 1, match[1]
    headers = {
        delimiter: [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
        for delimiter in delimiters
    }
    delimiter = next((d for d in headers if not known.isdisjoint(headers[d])), delimiters[0])
    names = headers[delimiter]
    repeated = {name for name in names if name and names.count(name) > 1}
    if repeated:
        raise StoreError(f"{path}:{number - 1}: several columns are named {min(repeated)!r}")
    return names, delimiter, number


def _wrong_count(cells: list[str], header: list[str]) -> str | None:
    """The reason why the cells do not fit the header; empty ones at the end do not count."""
    if len(cells) >= len(header) and not any(cells[len(header) :]):
        return None
    return (
        f"{len(cells)} cells, but the header names {len(header)}: "
        "put a text that holds a comma into quotation marks"
    )


def parquet_rows(path: Path) -> Rows:
    """(row number from 1, row), one batch in memory at a time."""
    import pyarrow.parquet as pq

    with blame(StoreError, f"{path}"):
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def shards(folder: Path) -> list[Path]:
    """The data files in a folder, in the order of their names, of the first format there is one of.

    Empty for a folder written by `Dataset.save_to_disk`.

    Raises:
        StoreError: the files are of several splits.
    """
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
        return []
    for pattern in ("*.parquet", "*.jsonl", "*.jsonl.gz", "*.csv"):
        files = sorted(folder.rglob(pattern))
        matches = [SHARD.fullmatch(file.name) for file in files]
        splits = {match["split"] for match in matches if match}
        if len(splits) > 1:
            names = ", ".join(sorted(splits))
            raise StoreError(f"{folder}: holds several splits ({names}): name the files of one")
        if files:
            return files
    return []


def saved_rows(path: Path) -> Rows:
    """(row number from 1, row) of a folder written by `Dataset.save_to_disk`."""
    import datasets

    with blame(StoreError, f"{path}"):
        dataset = datasets.load_from_disk(str(path))
        if isinstance(dataset, datasets.DatasetDict):
            splits = ", ".join(dataset)
            example = f"{path}/{next(iter(dataset))}"
            raise StoreError(f"{path}: holds several splits ({splits}): name one, as {example}")
        yield from enumerate(dataset, 1)


def hub_rows(name: str) -> Rows:
    """(row number from 1, row) of a data set, downloaded once and then read from the disk."""
    import datasets

    repository, _, split = name.removeprefix(HUB).partition("#")
    if not repository or not split:
        raise StoreError(f"{name}: name the data set and its split, as hub:OWNER/NAME#train")
    with blame(StoreError, name):
        yield from enumerate(datasets.load_dataset(repository, split=split), 1)
