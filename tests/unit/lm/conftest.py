"""Fixtures of the LM tests."""

from __future__ import annotations

import pytest
from tenacity import wait_none

from cai.lm import http


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow each other at once; the waits themselves are tested in test_rate_limit.py."""
    monkeypatch.setattr(http, "retry_wait", wait_none())
    monkeypatch.delenv(http.API_KEY_VARIABLE, raising=False)
