"""Locations of model files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from cai.modeling.model_files import EMBEDDED_HUB_ID, cache_dir, embedded_model


def test_where_the_embedded_model_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CAI_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "cai"
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert embedded_model() == EMBEDDED_HUB_ID
