"""The request log as a file: opening and export."""

from __future__ import annotations

import json
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


def test_the_log_can_be_exported(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log.sqlite")
    sample_hello(CachedLM(FakeLM(lambda chat, seed: "Well."), log))
    row = next(log.rows())
    assert row["request"]["chat"] == [{"role": "user", "content": "Hello."}]
    assert row["request"]["seed"] == 3
    assert json.loads(json.dumps(row))["answer"]["text"] == "Well."
