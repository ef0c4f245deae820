"""The worked examples of the pages on evaluations and on attacks, run in their order."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_pages import DOCS, fences
from typer.testing import CliRunner

from cai.cli import app
from cai.records import ScoredReply

PAGE, ATTACKS, SUITES = (
    (DOCS / "guides" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("reply-evaluations", "attacks", "suites")
)


def sessions(page: str = PAGE) -> Iterator[tuple[str, str]]:
    """(command, what the page shows below it)."""
    for _, language, inside in fences(page):
        if language == "console":
            command, _, shown = inside.partition("\n")
            yield command.removeprefix("$ "), shown


@pytest.fixture
def example_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for before, _, inside in (*fences(PAGE), *fences(ATTACKS), *fences(SUITES)):
        if match := re.fullmatch(r"<!-- file: (\S+) -->", before):
            (tmp_path / match[1]).write_text(inside, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("command", "shown"), [*sessions(), *sessions(ATTACKS), *sessions(SUITES)])
def test_the_page_shows_what_the_command_prints(
    example_files: Path, command: str, shown: str
) -> None:
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.stdout.splitlines()] == [
        line.split() for line in shown.splitlines()
    ]


def test_the_example_row_is_that_of_the_first_reply(example_files: Path) -> None:
    command = next(command for command, _ in sessions() if "capitals.yaml" in command)
    assert CliRunner().invoke(app, shlex.split(command)[1:]).exit_code == 0
    first = (example_files / "capitals.items.jsonl").read_text(encoding="utf-8").splitlines()[0]
    [shown] = [inside for before, _, inside in fences(PAGE) if "row: ScoredReply" in before]
    assert shown.strip() == first
    assert ScoredReply.model_validate_json(first).values == {"value": 0.0}
