"""Plain text of files, a bounded block at a time: `.txt`, or JSONL with a `text` column."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from cai.errors import StoreError
from cai.json_input import json_lines, open_input

BLOCK_BYTES = 1 << 16
"""Of a plain text that are read at a time."""


def text_blocks(path: Path) -> Iterator[str]:
    """The texts of a file's rows, or a plain text in blocks; those with nothing but white space are
    left out. Files may be compressed with gzip or Zstandard.

    Raises:
        StoreError: the file cannot be read, or as `file:line`: a row is not a JSON object with a
            `text`, or a plain text is not UTF-8.
    """
    is_plain = ".txt" in path.suffixes[-2:]
    for text in _plain_blocks(path) if is_plain else _row_texts(path):
        if text.strip():
            yield text


def _row_texts(path: Path) -> Iterator[str]:
    for number, row in json_lines(path):
        text = row.get("text")
        if not isinstance(text, str):
            reason = "no `text`" if "text" not in row else "`text` is no text"
            raise StoreError(f"{path}:{number}: {reason}: give each row its text under that name")
        yield text


def _plain_blocks(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1
    with open_input(path) as file:
        raw = None
        while raw != b"":
            raw = file.read(BLOCK_BYTES)
            try:
                text = decoder.decode(raw, final=raw == b"")
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                raise StoreError(f"{path}:{line}: not UTF-8 text") from None
            line += text.count("\n")
            yield text
