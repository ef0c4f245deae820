"""Plain text of files: rows and blocks, and what is wrong with a file, by line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cai.data import text_files
from cai.data.text_files import text_blocks
from cai.errors import StoreError


def test_a_plain_text_comes_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost where a block ends inside a character; a byte order mark is no text."""
    monkeypatch.setattr(text_files, "BLOCK_BYTES", 5)
    text = "über ähren\n\n" * 3 + "naïve"
    for name, data in (
        ("a.txt", text.encode("utf-8-sig")),
        ("a.txt.gz", gzip.compress(text.encode())),
    ):
        (tmp_path / name).write_bytes(data)
        blocks = list(text_blocks(tmp_path / name))
        assert "".join(blocks).split() == text.split()
        assert len(blocks) > 3
        assert max(map(len, blocks)) <= 6


def test_rows_have_a_text(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one", "url": 1}\n\n{"text": " "}\n{"text": "two\\nlines"}\n')
    assert list(text_blocks(file)) == ["one", "two\nlines"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"content": "two"}\n', r"a\.jsonl:2: no `text`: give each"),
        ("a.jsonl", b'{"text": "one"}\n{"text": 2}\n', r"a\.jsonl:2: `text` is no text"),
        ("a.jsonl", b'{"text": "one"}\n{"text": \n', r"a\.jsonl:2: not JSON"),
        ("a.txt", b"one\ntwo\n\xff\xfe\n", r"a\.txt:3: not UTF-8 text$"),
        ("a.txt", "one\nzwö".encode()[:-1], r"a\.txt:2: not UTF-8 text$"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(StoreError, match=message) as caught:
        list(text_blocks(file))
    assert "\n" not in str(caught.value)
