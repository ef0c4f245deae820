"""Isolation of the tests of the command line."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def isolated_process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo the environment variables and the silenced loggers of `quiet`, which tests share."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    logging.disable(logging.NOTSET)
