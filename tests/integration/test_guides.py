"""The commands of the guides, each page's in order in a folder of its own."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from cli_runner import Capture, run_command
from docs_pages import ROOT, blocks

PAGES: dict[str, list[str]] = {}
for page, inside in blocks("<!-- commands -->"):
    PAGES.setdefault(page, []).extend(inside.splitlines())


@pytest.fixture(autouse=True)
def isolated_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.parametrize("page", sorted(PAGES))
def test_the_commands_run(
    page: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for line in PAGES[page]:
        result = run_command(capsys, *shlex.split(line)[1:])
        assert result.code == 0, (line, result.err)


def test_some_pages_have_commands() -> None:
    assert "guides/comparisons.md" in PAGES
