"""Request logs that are damaged, another program's, or on a full disk: one line, what to do."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from canned import CannedLM, always, reply_answer
from cli_runner import Capture, run_command
from json_lines import write_lines
from lm_calls import sample_hello

import cai.lm
from cai import store
from cai.errors import StoreError
from cai.lm import request_log
from cai.lm.caching import CachedLM
from cai.lm.request_log import RequestLog

PAGE = 4096
CALLS = 120


@pytest.fixture(scope="module")
def log_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A log of some forty pages."""
    path = tmp_path_factory.mktemp("log") / "log.sqlite"
    log = RequestLog(path)
    for i in range(CALLS):
        answer = {"text": f"{i} " * 200, "finished": True, "prompt_tokens": 5}
        log.add(f"{i:064}", "m", "sample", json.dumps({"chat": [i]}), answer, (5, 5), 0.1)
    log.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    log.close()
    data = path.read_bytes()
    assert len(data) > 20 * PAGE
    return data


def use(path: Path) -> None:
    """Everything that is done with a log."""
    log = RequestLog(path, create=False)
    lm = CachedLM(CannedLM(always(reply_answer())), log)
    assert sample_hello(lm).text == "Well."
    for i in range(CALLS):
        with contextlib.suppress(KeyError):
            log.find(f"{i:064}")
    log.stats()
    json.dumps(list(log.rows()))
    log.prune(model="m")
    log.close()


def problem_with(path: Path) -> str | None:
    """What a user is told; None: the damage is not noticed, as in a reply's text."""
    try:
        use(path)
    except StoreError as error:
        return str(error)
    return None


@pytest.mark.parametrize("seed", range(40))
def test_damaged_pages(tmp_path: Path, log_bytes: bytes, seed: int) -> None:
    """Random bytes, zeros, or a cut, after the first page or within it."""
    stream = random.Random(seed)
    data = bytearray(log_bytes)
    first = 100 if seed % 4 == 0 else PAGE
    start = stream.randrange(first, len(data) - 64)
    length = stream.choice([8, 64, PAGE])
    if seed % 5 == 0:
        del data[start:]
    else:
        junk = bytes(length) if seed % 3 == 0 else stream.randbytes(length)
        data[start : start + length] = junk
    path = tmp_path / "log.sqlite"
    path.write_bytes(data)
    message = problem_with(path)
    if message is not None:
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        assert "move it away" in message


def test_a_page_in_the_middle(tmp_path: Path, log_bytes: bytes, capsys: Capture) -> None:
    """Every command that opens a log says so in one line."""
    path = tmp_path / "out.requests.sqlite"
    half = len(log_bytes) // 2 // PAGE * PAGE
    path.write_bytes(log_bytes[:half] + b"\xff" * 3 * PAGE + log_bytes[half + 3 * PAGE :])
    for arguments in (("stats",), ("export",), ("prune", "--model", "m")):
        result = run_command(capsys, "log", arguments[0], path, *arguments[1:])
        assert result.code == 2, arguments
        (line,) = result.err.splitlines()
        assert line.startswith(f"cai: {path}: the request log is damaged (")
        assert "sqlite3 out.requests.sqlite .recover" in line


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("this is no database" * 99), "not a request log"),
    "zeros": (lambda path: path.write_bytes(bytes(3 * PAGE)), "not a request log"),
    "short": (lambda path: path.write_bytes(b"x" * 20), "not a request log"),
    "other table": (lambda path: make_database(path, "notes"), "the table `notes`"),
    "other columns": (lambda path: make_database(path, "calls"), "another table `calls`"),
    "folder": (lambda path: path.mkdir(), "cannot be read or written"),
}


def make_database(path: Path, table: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"CREATE TABLE {table} (a, b)")


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_log_is_left_as_it_is(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make, words = FOREIGN[kind]
    monkeypatch.setattr(cai.lm, "HttpLM", lambda spec, config: CannedLM(always(reply_answer())))
    path = tmp_path / "out.requests.sqlite"
    make(path)
    before = None if path.is_dir() else path.read_bytes()
    source = write_lines(tmp_path / "in.jsonl", {"prompt": "a", "kind": "benign"})
    model = ("--model", "http://127.0.0.1:1/v1#m", "--constitution", "harmless")
    for arguments in (
        ("log", "stats", path),
        ("log", "export", path),
        ("log", "prune", path, "--model", "m"),
        ("revise", *model, "--input", source, "--output", tmp_path / "out.jsonl"),
        ("eval", "--only", "refusal", *model, "--data", source, "--output", tmp_path / "out.jsonl"),
    ):
        line = run_command(capsys, *arguments).usage_error
        assert line.startswith(f"{path}: ")
        assert words in line
    assert path.is_dir() or path.read_bytes() == before


# ---- a full disk ----


def test_a_full_disk_while_logging(tmp_path: Path) -> None:
    """SQLite itself says that there is no room: the log may not grow."""
    log = RequestLog(tmp_path / "log.sqlite")
    log.db.execute("PRAGMA max_page_count = 2")
    with pytest.raises(StoreError) as error:
        log.add("k", "m", "sample", "{}", "x" * 3 * PAGE, (1, 1), 0.1)
    assert str(error.value) == (
        f"{tmp_path / 'log.sqlite'}: the disk is full; nothing finished is lost: "
        "make room and run again"
    )
    log.db.execute("PRAGMA max_page_count = 1000")
    log.add("k", "m", "sample", "{}", "x" * 3 * PAGE, (1, 1), 0.1)
    assert len(log.find("k")) == 3 * PAGE


class _FullDisk:
    """A connection that can write nothing."""

    def __init__(self, code: int) -> None:
        self.code = code

    def execute(self, query: str, *values: object) -> Any:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = self.code
        raise error


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR | 3 << 8, sqlite3.SQLITE_CANTOPEN]
)
def test_a_full_disk_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Of an error in reading or writing the disk's free space decides."""
    monkeypatch.setattr(request_log.sqlite3, "connect", lambda *_, **__: _FullDisk(code))
    monkeypatch.setattr(request_log, "_is_disk_full", lambda path: True)
    with pytest.raises(StoreError, match="the disk is full; nothing finished is lost") as error:
        RequestLog(tmp_path / "log.sqlite")
    assert "move it away" not in str(error.value)
    monkeypatch.setattr(request_log, "_is_disk_full", lambda path: False)
    if code != sqlite3.SQLITE_FULL:
        with pytest.raises(StoreError, match="cannot be read or written") as error:
            RequestLog(tmp_path / "log.sqlite")
        assert "move it away" not in str(error.value)


@pytest.mark.parametrize("function", ["open", "ftruncate", "pwrite", "mkdir"])
def test_the_lock_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, fail)
    folder = tmp_path / "run"
    with (
        pytest.raises(StoreError, match=f"^{folder}.*: the disk is full; nothing finished is lost"),
        store.locked(folder),
    ):
        pass
