"""One version everywhere, and continuous integration that calls commands which exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cai.pipeline.renamed_keys import RENAMED

ROOT = Path(__file__).parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
GITHUB_FILES = sorted((ROOT / ".github").rglob("*.yml"))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_changelog_begins_with_the_packages_version() -> None:
    newest = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", CHANGELOG, re.MULTILINE)
    assert newest is not None
    citation = load(ROOT / "CITATION.cff")
    assert (newest[1], newest[2]) == (VERSION, str(citation["date-released"]))
    assert citation["version"] == VERSION


def test_the_changelog_has_every_renamed_key() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", CHANGELOG, re.MULTILINE)
    assert RENAMED.items() <= set(rows)


@pytest.mark.parametrize("path", GITHUB_FILES, ids=lambda path: path.name)
def test_files_of_github_are_yaml(path: Path) -> None:
    assert isinstance(load(path), dict)


def test_targets_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    steps = [
        step.get("run", "")
        for workflow in (ROOT / ".github" / "workflows").glob("*.yml")
        for job in load(workflow)["jobs"].values()
        for step in job["steps"]
    ]
    called = set(re.findall(r"\bmake ([a-z]+)", "\n".join(steps)))
    assert {"test", "docs"} <= called <= targets


def test_hooks_call_the_tools_of_the_environment() -> None:
    [local] = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert all(hook["entry"].startswith(".venv/bin/") for hook in local["hooks"])
