"""Rows written as they come, whole or not at all: prompts as JSONL, and tables as Parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cai.errors import StoreError, blame
from cai.records import Prompt

BATCH = 4096
Columns = dict[str, str | tuple[str, ...]]
"""Column -> `text`, `number`, `chat` (a list of role and content), or the names of the texts in it. Any of them may be null."""
PROMPT: Columns = {"chat": "chat", "id": "text", "kind": "text", "category": "text", "origin": "text", "user": "text"}


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> int:
    """`path` (JSONL, or Parquet by its name) with one row per prompt; returns how many. Nothing there until all of it is."""
    if path.suffix == ".parquet":
        return write_parquet(path, (json.loads(prompt.line()) for prompt in prompts), PROMPT)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with blame(StoreError, f"{path}"):
        with partial.open("w", encoding="utf-8") as out:
            for prompt in prompts:
                out.write(prompt.line() + "\n")
                count += 1
        os.replace(partial, path)
    return count


def write_parquet(path: Path, rows: Iterable[dict[str, Any]], columns: Columns) -> int:
    """One Parquet file, a batch in memory at a time; returns the number of rows. Nothing there until all of it is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    types = {"chat": pa.list_(turn), "text": pa.string(), "number": pa.float64()}

    def type_of(kind: str | tuple[str, ...]) -> Any:
        return types[kind] if isinstance(kind, str) else pa.struct([(name, pa.string()) for name in kind])

    schema = pa.schema([(name, type_of(kind)) for name, kind in columns.items()])
    partial = path.with_name(path.name + ".partial")
    count = 0
    with blame(StoreError, f"{path}"):
        with pq.ParquetWriter(partial, schema) as out:
            for batch in _batches(rows):
                out.write_batch(pa.RecordBatch.from_pylist(batch, schema))
                count += len(batch)
        os.replace(partial, path)
    return count


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    left = iter(rows)
    while batch := list(islice(left, BATCH)):
        yield batch
