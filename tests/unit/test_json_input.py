"""JSON files in the forms in which people have them: each gives the same objects."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from cai.errors import StoreError
from cai.json_input import json_lines

ROWS = [{"prompt": "Name a fish."}, {"prompt": "Où est la gare ?", "note": [1, {"a": "]"}]}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def zstandard(data: bytes) -> bytes:
    import pyarrow as pa

    compressed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return compressed


@pytest.mark.parametrize(
    ("data", "numbers"),
    [
        (LINES, [1, 2]),
        (b"\xef\xbb\xbf" + LINES, [1, 2]),
        (LINES.replace(b"\n", b"\r\n"), [1, 2]),
        (b"\n" + LINES.replace(b"\n", b"\n \n") + b"\n\n", [2, 4]),
        (LINES.rstrip(), [1, 2]),
        (json.dumps(ROWS).encode(), [1, 1]),
        (b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2).encode(), [2, 5]),
        ("\n".join(json.dumps(row, indent=1) for row in ROWS).encode(), [1, 4]),
        (LINES.replace(b"\n", b""), [1, 1]),
        (gzip.compress(LINES, mtime=0), [1, 2]),
        (gzip.compress(LINES[:10], mtime=0) + gzip.compress(LINES[10:], mtime=0), [1, 2]),
        (zstandard(LINES), [1, 2]),
    ],
    ids=[
        "lines",
        "byte order mark",
        "CRLF",
        "blank lines",
        "no last newline",
        "array",
        "indented array",
        "indented objects",
        "concatenated",
        "gzip",
        "gzip in two members",
        "Zstandard",
    ],
)
def test_every_form_holds_the_same_objects(tmp_path: Path, data: bytes, numbers: list[int]) -> None:
    (tmp_path / "a.json").write_bytes(data)
    assert list(json_lines(tmp_path / "a.json")) == list(zip(numbers, ROWS, strict=True))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'[{"a": 1},\n{"a": 2}', "a.json:2: not JSON .expected , or ]"),
        (b'[{"a": 1}\n{"a": 2}]', "a.json:1: not JSON .expected , or ]"),
        (b'[{"a": 1},', "a.json: not JSON .the array has no end"),
        (b'[{"a": 1}] {}', "a.json: not JSON .the array has no end, or is followed by"),
        (b'[{"a": 1},\n2]', "a.json:2: expected a JSON object, found int"),
        (b'{"a":\n 1}\n{"a": 2', "a.json:3: not JSON"),
        (gzip.compress(LINES * 50, mtime=0)[:60], "a.json: damaged gzip file"),
        (b'{"a": "cut \\ud83d"}', r"a.json:1: holds half a character .'\\ud83d'"),
        (b'{"a":\n"cut \\uDE00"}', r"a.json:1: holds half a character .'\\ude00'"),
    ],
)
def test_damaged_documents_are_named(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(StoreError, match=why) as caught:
        list(json_lines(tmp_path / "a.json"))
    assert "\n" not in str(caught.value)


def test_complete_surrogate_pairs_are_characters(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"a": "\\ud83d\\ude00"}')
    assert list(json_lines(tmp_path / "a.json")) == [(1, {"a": "\U0001f600"})]


def test_wrong_lines_can_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"a": 1}\n{"a": \n[]\n{"a": 4}\n')
    errors: list[StoreError] = []
    rows = list(json_lines(tmp_path / "a.json", name="shown", skip=errors.append))
    assert rows == [(1, {"a": 1}), (4, {"a": 4})]
    assert [str(error).split(": ")[0] for error in errors] == ["shown:2", "shown:3"]
