"""Prompts written as they come, whole or not at all."""

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


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> int:
    """`path` (JSONL, or Parquet by its name) with one row per prompt; returns how many. Nothing there until all of it is."""
    partial = path.with_name(path.name + ".partial")
    count = 0
    with blame(StoreError, f"{path}"):
        if path.suffix == ".parquet":
            count = _parquet(partial, prompts)
        else:
            with partial.open("w", encoding="utf-8") as out:
                for prompt in prompts:
                    out.write(prompt.line() + "\n")
                    count += 1
        os.replace(partial, path)
    return count


def _parquet(path: Path, prompts: Iterable[Prompt]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    texts = ("id", "kind", "category", "origin", "user")
    schema = pa.schema([("chat", pa.list_(turn)), *((name, pa.string()) for name in texts)])
    count, rows = 0, iter(prompts)
    with pq.ParquetWriter(path, schema) as out:
        while batch := list(_plain(islice(rows, BATCH))):
            out.write_batch(pa.RecordBatch.from_pylist(batch, schema))
            count += len(batch)
    return count


def _plain(prompts: Iterator[Prompt]) -> Iterator[dict[str, Any]]:
    for prompt in prompts:
        yield json.loads(prompt.line())
