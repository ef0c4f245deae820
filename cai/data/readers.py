"""Rows of prompts, whatever they are written in: JSONL, CSV, Parquet, `datasets` of a folder or the hub, hh-rlhf dialogues."""

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
BATCH = 1024
HUB = "hub:"
"""Begins the name of a data set that `datasets` knows how to get: hub:OWNER/NAME#SPLIT."""


def prompt_rows(path: Path) -> Iterator[Prompt]:
    """Prompts of one file, folder or `hub:OWNER/NAME#SPLIT`, one at a time, in order.

    A row has `prompt` (text), `chat` (role and content), `messages` (the same by another name), or `chosen` (a dialogue of
    "Human:" and "Assistant:" turns, of which everything up to the last human turn counts), and `kind`, `category`, `origin`,
    `user` if known. In a JSONL file other keys are refused; tables may have columns of their own, which are left out.

    Raises:
        StoreError: the file can't be read, or a row is wrong, as `file:row`.
    """
    if str(path).startswith(HUB):
        yield from _of_table(path, _hub(str(path)))
    elif path.suffix == ".csv":
        yield from _of_table(path, _csv(path))
    elif path.suffix == ".parquet":
        yield from _of_table(path, _parquet(path))
    elif path.is_dir():
        yield from _of_table(path, _saved(path))
    else:
        for number, data in json_lines(path):
            place = f"{path}:{number}"
            given = {key: value for key, value in data.items() if key not in ("prompt", "messages", "chosen", "rejected")}
            yield parse_row(given | {"chat": chat_from(data, place)}, Prompt, place)


def _of_table(path: Path, rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[Prompt]:
    for number, data in rows:
        place = f"{path}:{number}"
        given = {key: data[key] for key in FIELDS if data.get(key) not in (None, "")}
        yield parse_row(given | {"chat": chat_from({k: v for k, v in data.items() if v is not None}, place)}, Prompt, place)


def chat_from(data: dict[str, Any], place: str) -> Any:
    """The chat of an input row (see `prompt_rows`).

    Raises:
        StoreError: none of the four keys, or several, or one that isn't what it should be.
    """
    keys = [key for key in ("prompt", "chat", "messages", "chosen") if key in data]
    if len(keys) != 1:
        raise StoreError(f"{place}: a row needs either `prompt` (text) or `chat` (a list of role and content)")
    value = data[keys[0]]
    if keys[0] in ("prompt", "chosen") and not isinstance(value, str):
        raise StoreError(f"{place}: `{keys[0]}` must be text, found {type(value).__name__}")
    if keys[0] == "prompt":
        return (Message(role="user", content=value),)
    return asked(value, place) if keys[0] == "chosen" else value


def asked(dialogue: str, place: str) -> tuple[Message, ...]:
    """The turns of a "Human: ... Assistant: ..." dialogue, up to the last human one."""
    turns = re.split(r"(?:^|\n\n)(Human|Assistant):[ \t]*", dialogue)
    roles = {"Human": "user", "Assistant": "assistant"}
    chat = [Message(role=roles[who], content=text.strip()) for who, text in zip(turns[1::2], turns[2::2], strict=True)]
    while chat and chat[-1].role != "user":
        chat.pop()
    if turns[0].strip() or not chat:
        raise StoreError(f"{place}: `chosen` must be a dialogue that begins with Human:")
    return tuple(chat)


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row). The first line names the columns."""
    csv.field_size_limit(1 << 24)
    with blame(StoreError, f"{path}"), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield reader.line_num, {key: value for key, value in row.items() if isinstance(key, str) and value != ""}


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row from 1, row), a batch in memory at a time."""
    import pyarrow.parquet as pq

    with blame(StoreError, f"{path}"):
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _saved(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row from 1, row) of a folder that `datasets` saved."""
    import datasets

    with blame(StoreError, f"{path}"):
        found = datasets.load_from_disk(str(path))
        if isinstance(found, datasets.DatasetDict):
            raise StoreError(f"{path}: holds several splits ({', '.join(found)}): name one, as {path}/{next(iter(found))}")
        yield from enumerate(found, 1)


def _hub(name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row from 1, row) of a data set that is downloaded once, and then read from the disk."""
    import datasets

    where, _, split = name.removeprefix(HUB).partition("#")
    if not where or not split:
        raise StoreError(f"{name}: name the data set and its split, as hub:OWNER/NAME#train")
    with blame(StoreError, name):
        yield from enumerate(datasets.load_dataset(where, split=split), 1)
