"""Readers of prompts: JSONL, CSV, Parquet, lines of text, saved or hub `datasets`, dialogues."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from cai.data.conversations import (
    CHAT_FIELDS,
    chat_from,
    chat_of_field,
    dialogue_turns,
    normalized_turns,
    up_to_user,
)
from cai.data.public_sets import COLUMNS, renamed_row
from cai.data.tables import (
    ALL_TEXT,
    HUB,
    Cells,
    Rows,
    csv_rows,
    hub_rows,
    json_row,
    parquet_rows,
    saved_rows,
    shards,
)
from cai.errors import StoreError
from cai.json_input import open_input
from cai.records import Prompt
from cai.store import json_lines, parse_row

__all__ = [
    "FIELDS",
    "ReadOptions",
    "chat_from",
    "dialogue_turns",
    "located_rows",
    "prompt_rows",
    "row_prompt",
]

FIELDS = ("kind", "category", "origin", "user")
"""Optional fields of an input row."""
TURN_FIELDS = ("messages", "conversations", "conversation")
"""Fields with turns that a row may have beside `prompt`."""
TURN_CELLS = frozenset((*CHAT_FIELDS, "rejected", "completion"))
"""Columns of a CSV file that may hold turns, as JSON."""
KNOWN = frozenset((*CHAT_FIELDS, *FIELDS))
ROW_ID = re.compile(r"[0-9a-f]{16}")
SIMILARITY = 0.87
"""From which an unknown key of a JSONL row is taken to be a misspelled one."""


@dataclass(frozen=True)
class ReadOptions:
    """Options of `prompt_rows`."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Field -> the key or column that holds it, in rows that have that key."""
    skip: Callable[[StoreError], None] | None = None
    """Called with the error of a wrong row, which is then left out; None: the error is raised."""
    name: str | None = None
    """Of the file in messages; its path by default."""


def prompt_rows(path: Path, options: ReadOptions = ReadOptions()) -> Iterator[Prompt]:
    """Prompts of one file, folder or `hub:OWNER/NAME#SPLIT`, one at a time, in order.

    A row has `prompt` (text or turns), or `chat`, `messages`, `conversations` or `conversation`
    (turns of role and content, or of ShareGPT's `from` and `value`), or `chosen` or `transcript`
    (a dialogue of "Human:" and "Assistant:" turns). It is read up to the last user turn. `kind`,
    `category`, `origin` and `user` are optional; other keys are ignored, but a key of a JSONL row
    that looks like a misspelled one is an error. A text file has a prompt a line. The columns of
    some public sets are known: see `cai.data.public_sets`.

    Raises:
        StoreError: the file can't be read, or a row is wrong; the message begins with file:row.
    """
    if path.is_dir() and (files := shards(path)):
        for file in files:
            yield from prompt_rows(file, options)
        return
    name = options.name or str(path)
    is_jsonl, rows = _rows(path, options)
    for number, row in rows:
        try:
            prompt = _prompt(row, f"{name}:{number}", options.columns, is_jsonl)
        except StoreError as error:
            if options.skip is None:
                raise
            options.skip(error)
            continue
        yield prompt


def located_rows(path: Path, cells: Cells = ALL_TEXT) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, row) of what `prompt_rows` reads, whatever the row's fields are.

    The values are those of JSON.

    Args:
        path: a file, folder, or `hub:OWNER/NAME#SPLIT`.
        cells: names of columns besides those of prompts, and how their cells are read.

    Raises:
        StoreError: the file can't be read; the message begins with file:row.
    """
    if path.is_dir() and (files := shards(path)):
        for file in files:
            yield from located_rows(file, cells)
        return
    is_jsonl, rows = _rows(path, ReadOptions(), cells)
    for number, row in rows:
        location = f"{path}:{number}"
        yield location, json_row(row, location, is_json=is_jsonl)


def row_prompt(
    row: dict[str, Any], location: str, columns: Mapping[str, str] | None = None
) -> Prompt:
    """The prompt in a row that has other fields too, up to its last user turn.

    Args:
        row: as `located_rows` yields it.
        location: of the row, which begins the error message.
        columns: field -> the key that holds it, in rows that have that key.

    Raises:
        StoreError: there is none.
    """
    return _prompt(row, location, columns or {}, is_jsonl=False)


def _rows(path: Path, options: ReadOptions, cells: Cells = ALL_TEXT) -> tuple[bool, Rows]:
    """(whether the rows are JSON, the rows)."""
    if str(path).startswith(HUB):
        return False, hub_rows(str(path))
    file_name = path.name.lower()
    for compression in (".gz", ".zst"):
        file_name = file_name.removesuffix(compression)
    if path.is_dir():
        return False, saved_rows(path)
    if file_name.endswith((".csv", ".tsv")):
        known = KNOWN | COLUMNS | frozenset(options.columns.values()) | cells.known
        cells = replace(cells, known=known, turns=TURN_CELLS)
        return False, csv_rows(path, cells, options.skip)
    if file_name.endswith(".parquet"):
        return False, parquet_rows(path)
    if file_name.endswith(".txt"):
        return False, _line_rows(path)
    return True, json_lines(path, name=options.name, skip=options.skip)


def _line_rows(path: Path) -> Rows:
    """(line, row) of a text with a prompt a line; blank lines are left out."""
    with open_input(path) as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.removeprefix(codecs.BOM_UTF8).decode().strip()
            except UnicodeDecodeError:
                raise StoreError(f"{path}:{number}: not UTF-8 text") from None
            if line:
                yield number, {"prompt": line}


def _prompt(
    row: dict[str, Any], location: str, columns: Mapping[str, str], is_jsonl: bool
) -> Prompt:
    if is_jsonl and _is_prompt_row(row):
        return parse_row(row, Prompt, location)
    row = _renamed(renamed_row(row, location), columns)
    if is_jsonl:
        _check_spelling(row, location)
    return parse_row(_optional_fields(row) | {"chat": _chat(row, location)}, Prompt, location)


def _is_prompt_row(row: Mapping[str, Any]) -> bool:
    """Whether the row was written as a `Prompt`, whose `id` follows from its content."""
    id = row.get("id")
    is_id = isinstance(id, str) and ROW_ID.fullmatch(id) is not None
    return is_id and "chat" in row and row.keys() <= {"id", "chat", *FIELDS}


def _renamed(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with the columns that are named in `columns` under our names."""
    present = {target: key for target, key in columns.items() if key in row}
    if not present:
        return row
    replaced = set(present.values())
    if not present.keys().isdisjoint(CHAT_FIELDS):
        replaced.update(CHAT_FIELDS)
    others = {key: value for key, value in row.items() if key not in replaced}
    return others | {target: row[key] for target, key in present.items()}


def _optional_fields(row: Mapping[str, Any]) -> dict[str, str]:
    """The optional fields with a value; numbers as text, and values of other types left out."""
    fields: dict[str, str] = {}
    for name in FIELDS:
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "kind":
            value = str(value)
        if name == "kind" and value is not None and not isinstance(value, str):
            value = repr(value)  # refused by the row's check, which names the kinds
        if isinstance(value, str) and value.strip():
            fields[name] = value.strip() if name == "kind" else value
    return fields


def _chat(row: Mapping[str, Any], location: str) -> Any:
    """The chat of a row, up to its last user turn."""
    present = [key for key in CHAT_FIELDS if row.get(key) is not None]
    if not present or {"prompt", "chat"} <= set(present):
        names = ", ".join(str(key) for key in row if row[key] is not None) or "empty"
        raise StoreError(
            f"{location}: a row needs either `prompt` (text) or `chat` (a list of role and "
            f"content); its keys are {names}: `cai clean --column prompt=KEY` reads another key"
        )
    if "prompt" in present:
        _check_agreement(row, location)
    key = present[0]
    chat = chat_of_field(key, row[key], location)
    if not chat:
        raise StoreError(f"{location}: {key}: chat must end with a non-empty user turn")
    return up_to_user(chat) if isinstance(chat, list) else chat


def _check_agreement(row: Mapping[str, Any], location: str) -> None:
    """Refuse a row whose `prompt` is not among what the user says in its turns."""
    prompt = row["prompt"]
    for key in TURN_FIELDS:
        turns = row.get(key)
        if not isinstance(prompt, str) or not isinstance(turns, list):
            continue
        texts = [
            turn.get("content")
            for turn in normalized_turns(turns, location)
            if isinstance(turn, Mapping) and turn.get("role") == "user"
        ]
        if prompt.strip() not in [text.strip() for text in texts if isinstance(text, str)]:
            raise StoreError(
                f"{location}: `prompt` and `{key}` differ: say which one to read, as "
                f"`cai clean --column messages={key}`"
            )


def _check_spelling(row: Mapping[str, Any], location: str) -> None:
    for key in row:
        if key not in KNOWN and (meant := _similar_field(key)) and meant not in row:
            raise StoreError(f"{location}: unknown key `{key}`: did you mean `{meant}`?")


@lru_cache(maxsize=1024)
def _similar_field(key: str) -> str | None:
    matches = get_close_matches(key.lower(), sorted(KNOWN), 1, SIMILARITY)
    return matches[0] if matches else None
