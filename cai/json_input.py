"""Objects of JSON files: one a line, or in a document; plain or compressed; from disk or a pipe."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cai.errors import StoreError

_SPACE = re.compile(r"[ \t\r\n]*")

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""The escape of half a character outside the basic plane, such as an emoji."""


def json_lines(
    path: Path, *, name: str | None = None, skip: Callable[[StoreError], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) for every object of a JSON file; `-` reads standard input.

    One object a line (JSONL, with blank lines skipped), or a document: an array of objects, or
    objects that span lines. A document is read into memory. Files may begin with a byte order mark
    and may be compressed with gzip or Zstandard.

    Args:
        name: of the file in messages; its path by default.
        skip: called with the error of a line that is not a JSON object, which is then left out.

    Raises:
        StoreError: the file is missing, or a line is not a JSON object, as `file:line`.
    """
    name = name or str(path)
    with open_input(path, name) as file:
        lines = enumerate(file, 1)
        is_first = True
        for number, raw in lines:
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            if not line.strip():
                continue
            if is_first and _begins_document(line):
                yield from _document_objects(line + file.read(), number, name)
                return
            is_first = False
            try:
                data = _json_object(line, f"{name}:{number}")
            except StoreError as error:
                if skip is None:
                    raise
                skip(error)
                continue
            yield number, data


@contextlib.contextmanager
def open_input(path: Path, name: str | None = None) -> Iterator[BinaryIO]:
    """The bytes of a file or of standard input (`-`), decompressed if they are compressed.

    Raises:
        StoreError: the file cannot be read, now or in the block; the message begins with `name`.
    """
    name = name or str(path)
    with contextlib.ExitStack() as stack:
        if str(path) == "-":
            source: Any = sys.stdin.buffer
            if not hasattr(source, "peek"):
                source = io.BufferedReader(source)
        else:
            source = stack.enter_context(_open(path, name))
        try:
            yield _decompressed(source)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise StoreError(f"{name}: damaged gzip file: {error}") from None
        except OSError as error:
            raise StoreError(f"{name}: cannot read: {error.strerror or error}") from None


def _open(path: Path, name: str) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise StoreError(f"{name}: cannot read: {error.strerror}") from None


def _decompressed(source: Any) -> Any:
    head = source.peek(4)[:4]
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=source)
    if head == b"\x28\xb5\x2f\xfd":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(source), "zstd"))
    return source


def _begins_document(line: bytes) -> bool:
    """Whether the first line opens an array, or an object that does not end with the line."""
    text = line.strip()
    if text.startswith(b"["):
        return True
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        is_open = error.pos >= len(error.doc)
        return text.startswith(b"{") and (is_open or error.msg == "Extra data")
    except (ValueError, RecursionError):
        return False
    return False


def _document_objects(raw: bytes, line: int, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) for the objects of a document that begins on `line`."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise StoreError(f"{name}: not UTF-8 text") from None
    decoder = json.JSONDecoder()
    position = _next_token(text, 0)
    is_array = text[position] == "["
    position = _next_token(text, position + is_array)
    counted = 0
    while position < len(text) and not (is_array and text[position] == "]"):
        line += text.count("\n", counted, position)
        counted = position
        location = f"{name}:{line}"
        start = position
        with _json_errors(location, text[position : position + 80]):
            data, position = decoder.raw_decode(text, position)
        yield line, _checked_object(data, text[start:position], location)
        position = _next_token(text, position)
        if is_array and text[position : position + 1] == ",":
            position = _next_token(text, position + 1)
        elif is_array and text[position : position + 1] != "]":
            raise StoreError(f"{location}: not JSON (expected , or ] after this object)")
    if is_array and text[position:].strip() != "]":
        raise StoreError(f"{name}: not JSON (the array has no end, or is followed by other text)")


def _next_token(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _json_object(raw: bytes, location: str) -> dict[str, Any]:
    try:
        line = raw.decode()
    except UnicodeDecodeError:
        raise StoreError(f"{location}: not UTF-8 text") from None
    with _json_errors(location, line):
        data = json.loads(line)
    return _checked_object(data, line, location)


@contextlib.contextmanager
def _json_errors(location: str, text: str) -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise StoreError(f"{location}: not JSON (nested too deeply): {_excerpt(text)}") from None
    except ValueError as error:  # a syntax error (with a `msg`), or a number of thousands of digits
        reason = getattr(error, "msg", "number too long")
        raise StoreError(f"{location}: not JSON ({reason}): {_excerpt(text)}") from None


def _checked_object(data: Any, text: str, location: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise StoreError(f"{location}: expected a JSON object, found {type(data).__name__}")
    if _SURROGATE.search(text):
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            raise StoreError(
                f"{location}: holds half a character ({half}): was a text cut inside an emoji?"
            ) from None
    return data


def _excerpt(line: str) -> str:
    text = line.strip()
    return repr(text if len(text) <= 40 else text[:40] + "…")
