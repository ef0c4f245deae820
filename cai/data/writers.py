"""Writers of prompts and tables, as JSONL or Parquet; a file appears complete or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cai.errors import StoreError, blame
from cai.files import complete_file
from cai.records import Prompt

BATCH = 4096
"""Rows in memory at a time."""
Columns = dict[str, str | tuple[str, ...]]
"""Column -> type. All columns are nullable. The types: `text`, `number`, `chat` (a list of role and
content), or the names of the text fields of a struct."""
OTHER_FORMATS = (".csv", ".tsv", ".xlsx", ".arrow", ".feather", ".gz", ".zst", ".zip", ".db")
PROMPT: Columns = {
    "chat": "chat",
    "id": "text",
    "kind": "text",
    "category": "text",
    "origin": "text",
    "user": "text",
}


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> int:
    """Write one row per prompt, as Parquet if the suffix says so, else as JSONL.

    Returns:
        The number of rows.

    Raises:
        StoreError: the name promises another format, or the file cannot be written.
    """
    return write_prompt_lines(path, (prompt.line().encode() + b"\n" for prompt in prompts))


def write_prompt_lines(path: Path, lines: Iterable[bytes]) -> int:
    """As `write_prompts`, of prompts that are lines already."""
    check_suffix(path)
    if path.suffix.lower() == ".parquet":
        return write_parquet(path, map(json.loads, lines), PROMPT)
    count = 0
    with _writing(path) as partial, partial.open("wb") as out:
        for line in lines:
            out.write(line)
            count += 1
    return count


def check_suffix(path: Path) -> None:
    """Refuse a name that promises a format which is not written, such as CSV."""
    if path.suffix.lower() in OTHER_FORMATS:
        raise StoreError(
            f"{path}: written as JSONL or Parquet only: end the name with .jsonl or .parquet"
        )


def write_parquet(path: Path, rows: Iterable[dict[str, Any]], columns: Columns) -> int:
    """Write one Parquet file, with one batch in memory at a time.

    Returns:
        The number of rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    types = {"chat": pa.list_(turn), "text": pa.string(), "number": pa.float64()}

    def type_of(kind: str | tuple[str, ...]) -> Any:
        if isinstance(kind, str):
            return types[kind]
        return pa.struct([(name, pa.string()) for name in kind])

    schema = pa.schema([(name, type_of(kind)) for name, kind in columns.items()])
    count = 0
    with _writing(path) as partial, pq.ParquetWriter(partial, schema) as out:
        for batch in _batches(rows):
            out.write_batch(pa.RecordBatch.from_pylist(batch, schema))
            count += len(batch)
    return count


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """A file to fill, which is renamed to `path` on success."""
    with blame(StoreError, f"{path}"), complete_file(path) as partial:
        yield partial


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        yield batch
