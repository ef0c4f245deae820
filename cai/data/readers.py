"""Readers of prompts: JSONL, CSV, Parquet, saved or hub `datasets`, and hh-rlhf dialogues."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cai.errors import StoreError, blame
from cai.records import Message, Prompt
from cai.store import json_lines, parse_row

FIELDS = ("kind", "category", "origin", "user")
"""Optional fields of an input row."""
CHAT_FIELDS = ("prompt", "chat", "messages", "chosen")
"""Fields that hold the chat of an input row, of which a row has exactly one."""
BATCH = 1024
"""Rows of a Parquet file in memory at a time."""
HUB = "hub:"
"""Prefix of a data set that `datasets` downloads: hub:OWNER/NAME#SPLIT."""
Rows = Iterator[tuple[int, dict[str, Any]]]
"""(line or row number, row)."""


def prompt_rows(path: Path) -> Iterator[Prompt]:
    """Prompts of one file, folder or `hub:OWNER/NAME#SPLIT`, one at a time, in order.

    A row has one of `prompt` (text), `chat` (role and content), `messages` (the same as `chat`)
    and `chosen` (a dialogue of "Human:" and "Assistant:" turns, read up to the last human turn),
    and optionally `kind`, `category`, `origin` and `user`. Other keys are an error in a JSONL file
    and are ignored in a table.

    Raises:
        StoreError: the file can't be read, or a row is wrong; the message begins with file:row.
    """
    if str(path).startswith(HUB):
        yield from _table_prompts(path, _hub_rows(str(path)))
    elif path.suffix == ".csv":
        yield from _table_prompts(path, _csv_rows(path))
    elif path.suffix == ".parquet":
        yield from _table_prompts(path, _parquet_rows(path))
    elif path.is_dir():
        yield from _table_prompts(path, _saved_rows(path))
    else:
        yield from _jsonl_prompts(path)


def _jsonl_prompts(path: Path) -> Iterator[Prompt]:
    replaced = ("prompt", "messages", "chosen", "rejected")  # by `chat`
    for number, data in json_lines(path):
        location = f"{path}:{number}"
        fields = {key: value for key, value in data.items() if key not in replaced}
        yield parse_row(fields | {"chat": chat_from(data, location)}, Prompt, location)


def _table_prompts(path: Path, rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[Prompt]:
    for number, row in rows:
        location = f"{path}:{number}"
        fields = {key: row[key] for key in FIELDS if row.get(key) not in (None, "")}
        present = {key: value for key, value in row.items() if value is not None}
        yield parse_row(fields | {"chat": chat_from(present, location)}, Prompt, location)


def chat_from(data: dict[str, Any], location: str) -> Any:
    """The chat of an input row (see `prompt_rows`).

    Args:
        location: file:row, which begins the error message.

    Raises:
        StoreError: the row has none or several of `CHAT_FIELDS`, or one of the wrong type.
    """
    keys = [key for key in CHAT_FIELDS if key in data]
    if len(keys) != 1:
        raise StoreError(
            f"{location}: a row needs either `prompt` (text) or `chat` (a list of role and content)"
        )
    key = keys[0]
    value = data[key]
    if key in ("prompt", "chosen") and not isinstance(value, str):
        raise StoreError(f"{location}: `{key}` must be text, found {type(value).__name__}")
    if key == "prompt":
        return (Message(role="user", content=value),)
    return dialogue_turns(value, location) if key == "chosen" else value


def dialogue_turns(dialogue: str, location: str) -> tuple[Message, ...]:
    """The turns of a "Human: ... Assistant: ..." dialogue, up to the last human turn."""
    start, *labelled = re.split(r"(?:^|\n\n)(Human|Assistant):[ \t]*", dialogue)
    roles = {"Human": "user", "Assistant": "assistant"}
    chat = [
        Message(role=roles[label], content=text.strip())
        for label, text in zip(labelled[::2], labelled[1::2], strict=True)
    ]
    while chat and chat[-1].role != "user":
        chat.pop()
    if start.strip() or not chat:
        raise StoreError(f"{location}: `chosen` must be a dialogue that begins with Human:")
    return tuple(chat)


def _csv_rows(path: Path) -> Rows:
    """(line, row). The first line names the columns; empty cells are left out."""
    csv.field_size_limit(1 << 24)
    with blame(StoreError, f"{path}"), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            cells = {
                name: value for name, value in row.items() if isinstance(name, str) and value != ""
            }
            yield reader.line_num, cells


def _parquet_rows(path: Path) -> Rows:
    """(row number from 1, row), one batch in memory at a time."""
    import pyarrow.parquet as pq

    with blame(StoreError, f"{path}"):
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _saved_rows(path: Path) -> Rows:
    """(row number from 1, row) of a folder written by `Dataset.save_to_disk`."""
    import datasets

    with blame(StoreError, f"{path}"):
        dataset = datasets.load_from_disk(str(path))
        if isinstance(dataset, datasets.DatasetDict):
            splits = ", ".join(dataset)
            example = f"{path}/{next(iter(dataset))}"
            raise StoreError(f"{path}: holds several splits ({splits}): name one, as {example}")
        yield from enumerate(dataset, 1)


def _hub_rows(name: str) -> Rows:
    """(row number from 1, row) of a data set, downloaded once and then read from the disk."""
    import datasets

    repository, _, split = name.removeprefix(HUB).partition("#")
    if not repository or not split:
        raise StoreError(f"{name}: name the data set and its split, as hub:OWNER/NAME#train")
    with blame(StoreError, name):
        yield from enumerate(datasets.load_dataset(repository, split=split), 1)
