"""The files of a stage's waves through Ray: requests in Parquet, answers in Parquet and in JSONL.

Ray writes the tables of answers. Workers that call an endpoint write the JSONL, an answer at a time
(`ray_calls`), and it holds what a wave that was cut had received.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cai.files import write_errors
from cai.integrations.ray_calls import read_received
from cai.lm.batch_files import AnswerFiles

ROWS_PER_FILE = 5000
"""Requests of a Parquet file."""


# ---- requests ----


class RequestTables:
    """Writes requests into Parquet files of at most `ROWS_PER_FILE`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[Path] = []
        self._rows: list[dict[str, Any]] = []
        with write_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def add(self, name: str, body: Mapping[str, Any]) -> None:
        self._rows.append({"id": name, "body": json.dumps(body)})
        if len(self._rows) == ROWS_PER_FILE:
            self.close()

    def close(self) -> None:
        """Write the last file."""
        if not self._rows:
            return
        path = self.folder / f"{len(self.paths):06}.parquet"
        with write_errors(path):
            pq.write_table(pa.Table.from_pylist(self._rows), path)
        self.paths.append(path)
        self._rows = []


# ---- answers ----


@dataclass
class AnswerTables:
    """The answers in a folder of waves: in tables, and in files of calls that a kill has cut."""

    positions: dict[str, tuple[Path, int]] = field(default_factory=dict)
    """Name of a request -> table and row, of the last wave that has an answer."""
    errors: dict[str, str] = field(default_factory=dict)
    """Name of a request -> why a wave had no answer."""
    received: AnswerFiles = field(default_factory=AnswerFiles)

    def find(self, name: str) -> bytes | None:
        """The body of an answer; None: there is none."""
        if name not in self.positions:
            return self.received.find(name)
        path, row = self.positions[name]
        answer: str = _read_table(path)["answer"][row].as_py()
        return answer.encode()


def read_answers(folder: Path) -> AnswerTables:
    """What the waves of a folder have left so far."""
    answers = AnswerTables(received=read_received(sorted((folder / "received").glob("*.jsonl"))))
    for path in sorted((folder / "answers").glob("*/*.parquet")):
        for number, (name, is_answer, error) in enumerate(_outcomes(path)):
            if is_answer:
                answers.positions[name] = (path, number)
            else:
                answers.errors[name] = error or "no answer"
    return answers


def _outcomes(path: Path) -> Iterator[tuple[str, bool, str | None]]:
    """(name, whether there is an answer, error) of each row; none of a file that is not whole."""
    try:
        table = _read_table(path)
    except (pa.ArrowException, KeyError, OSError):
        return
    columns = (table["id"], table["answer"].is_valid(), table["error"])
    yield from zip(*(column.to_pylist() for column in columns), strict=True)


@lru_cache(maxsize=4)  # a pass wants answers in about the order of the files
def _read_table(path: Path) -> pa.Table:
    schema = pa.schema([(name, pa.string()) for name in ("id", "answer", "error")])
    # other types are not Ray's: none is loaded that could run code
    return pq.ParquetFile(path).read(columns=schema.names).select(schema.names).cast(schema)
