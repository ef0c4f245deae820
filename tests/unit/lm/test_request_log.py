"""The request log as a file: opening and export."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from hashlib import sha256
from pathlib import Path

import pytest
from lm_calls import sample_hello

from cai.errors import StoreError
from cai.lm import FakeLM
from cai.lm.caching import CachedLM
from cai.lm.request_log import RequestLog


def test_what_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_text(
        "this is no database, and long enough to be read as one" * 20
    )
    with pytest.raises(StoreError, match=r"x\.sqlite: not a request log"):
        RequestLog(tmp_path / "x.sqlite")
    with pytest.raises(StoreError, match="no such request log"):
        RequestLog(tmp_path / "y.sqlite", create=False)


@pytest.mark.parametrize("create", [True, False])
def test_a_database_of_others_gets_no_table(tmp_path: Path, create: bool) -> None:
    """An empty file is a new log, but only where one may be created."""
    path = tmp_path / "mine.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE thesis (line TEXT)")
        database.commit()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"mine\.sqlite: not a request log, but a database"):
        RequestLog(path, create=create)
    assert path.read_bytes() == before
    empty = tmp_path / "empty.sqlite"
    empty.touch()
    if create:
        assert list(RequestLog(empty).rows()) == []
    else:
        with pytest.raises(StoreError, match="not a request log"):
            RequestLog(empty, create=False)
        assert empty.read_bytes() == b""


def test_the_log_can_be_exported(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log.sqlite")
    sample_hello(CachedLM(FakeLM(lambda chat, seed: "Well."), log))
    row = next(log.rows())
    assert row["request"]["chat"] == [{"role": "user", "content": "Hello."}]
    assert row["request"]["seed"] == 3
    assert json.loads(json.dumps(row))["answer"]["text"] == "Well."


def test_a_log_takes_little_more_than_its_texts(tmp_path: Path) -> None:
    """2,000 answers of a kilobyte whose digests come in no order."""
    log = RequestLog(tmp_path / "log.sqlite")
    for number in range(2000):
        key = sha256(str(number).encode()).hexdigest()
        log.add(key, "m", "sample", "{}", {"text": "x" * 1000}, (1, 1), 0.1)
    log.close()
    assert log.path.stat().st_size < 2000 * 1500
