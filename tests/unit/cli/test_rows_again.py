"""Rows asked again in files with prefixed fields, other names of columns and other formats."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from canned import Canned
from cli_runner import Capture, CommandResult, run_command
from file_tools import COMMANDS, SPEC, Endpoint, write_inputs
from json_lines import write_lines
from tenacity import wait_none

import cai.lm
from cai.lm import http

TOOLS = ("label", "revise", "grade")
NULL = ("unscored", "dropped")
"""Fields with the reason of a null row."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(http, "retry_wait", wait_none())
    write_inputs(tmp_path)
    return tmp_path


class Outage:
    """Every third request fails with a status that passes, until the outage is over."""

    def __init__(self) -> None:
        self.is_over = False
        self.count = 0

    def __call__(self, body: dict[str, Any]) -> Canned | None:
        self.count += 1
        fails = self.count % 3 == 0 and not self.is_over
        return Canned(b"{}", 503) if fails else None


def options_of(command: str, source: str, target: str, *more: str) -> list[str]:
    replaced = {"rows.jsonl": source, "o.jsonl": target}
    return [replaced.get(option, option) for option in COMMANDS[command]] + list(more)


def run(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, server: Endpoint, command: str, *more: str
) -> CommandResult:
    monkeypatch.setattr(cai.lm, "HttpLM", server.open)
    options = ("--model", SPEC, "--set", "http.attempts=1")
    return run_command(capsys, command, *options, *more)


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]


def ask_again(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str, *options: str
) -> CommandResult:
    """Run a command in an outage, and once more after it."""
    outage = Outage()
    server = Endpoint(outage)
    first = run(capsys, monkeypatch, server, command, *options)
    assert "run the command again to ask again for" in first.err, first.err
    outage.is_over = True
    second = run(capsys, monkeypatch, server, command, *options)
    assert second.code == 0, second.err
    assert "unanswered rows are asked again" in second.err
    third = run(capsys, monkeypatch, server, command, *options)
    assert third.code == 0
    assert " null" not in third.err
    return second


@pytest.mark.parametrize("command", TOOLS)
def test_fields_with_a_prefix(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The values are those of a run without an outage and without a prefix."""
    plain = options_of(command, "rows.jsonl", "plain.jsonl")
    assert run(capsys, monkeypatch, Endpoint(), command, *plain).code == 0
    options = options_of(command, "rows.jsonl", "again.jsonl", "--prefix", "j_")
    ask_again(capsys, monkeypatch, command, *options)
    inputs = rows_of("rows.jsonl")
    for row, before, line in zip(
        rows_of("again.jsonl"), rows_of("plain.jsonl"), inputs, strict=True
    ):
        added = {name.removeprefix("j_"): row[name] for name in row if name not in line}
        assert all(name.startswith("j_") for name in row if name not in line)
        assert line | added == before


@pytest.mark.parametrize("command", TOOLS)
@pytest.mark.parametrize("prefix", [[], ["--prefix", "j_"]])
def test_reasons_of_the_input_are_not_those_of_the_command(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str, prefix: list[str]
) -> None:
    """An input may be the output of another command, and have null rows of its own."""
    passing = "no answer for now: status 503"
    added = {"label": "unscored", "grade": "unscored", "revise": "dropped"}[command]
    names = NULL if prefix else [name for name in NULL if name != added]
    rows = [row | dict.fromkeys(names, passing) for row in rows_of("rows.jsonl")]
    write_lines(Path("rows.jsonl"), *rows)
    options = options_of(command, "rows.jsonl", "again.jsonl", *prefix)
    for _ in range(2):
        server = Endpoint()
        result = run(capsys, monkeypatch, server, command, *options)
        assert result.code == 0
        assert "null" not in result.err
    assert server.requests == 0


def write_renamed(name: str) -> None:
    rows = [{"goal": row.pop("prompt"), **row} for row in rows_of("rows.jsonl")]
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)


@pytest.mark.parametrize("command", [*TOOLS, "eval"])
def test_columns_of_a_table(capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """The added values are those of JSONL with our names, asked without an outage."""
    plain = options_of(command, "rows.jsonl", "plain.jsonl")
    assert run(capsys, monkeypatch, Endpoint(), command, *plain).code == 0
    write_renamed("in.csv")
    column = ("--column", "prompt=goal")
    ask_again(capsys, monkeypatch, command, *options_of(command, "in.csv", "again.jsonl", *column))
    for row, before in zip(rows_of("again.jsonl"), rows_of("plain.jsonl"), strict=True):
        if "goal" in row:
            row["prompt"] = row.pop("goal")
        assert row == before
    if command == "eval":
        replies = [Path(f"{name}.items.jsonl").read_bytes() for name in ("again", "plain")]
        assert replies[0] == replies[1]


@pytest.mark.parametrize("command", TOOLS)
def test_other_columns_are_other_rows(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    rows = [row | {"goal": f"Another {n}."} for n, row in enumerate(rows_of("rows.jsonl"))]
    write_lines(Path("rows.jsonl"), *rows)
    options = options_of(command, "rows.jsonl", "o.jsonl")
    assert run(capsys, monkeypatch, Endpoint(), command, *options).code == 0
    result = run(capsys, monkeypatch, Endpoint(), command, *options, "--column", "prompt=goal")
    assert "its rows were made with another column:" in result.usage_error


def test_an_evaluation_at_an_endpoint_says_what_has_no_kind(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scores belong to it: what somebody has changed since is not replaced."""
    write_lines(Path("in.jsonl"), {"goal": "Tell me.", "kind": "benign"}, {"goal": "And you?"})
    options = options_of("eval", "in.jsonl", "o.jsonl", "--column", "prompt=goal")
    result = run(capsys, monkeypatch, Endpoint(), "eval", *options)
    assert result.code == 0, result.err
    assert "in.jsonl: 1 of 2 prompts have no `kind`" in result.err
    assert "calls   2 " in result.err
    with Path("o.jsonl").open("a", encoding="utf-8") as file:
        file.write("mine\n")
    server = Endpoint()
    changed = run(capsys, monkeypatch, server, "eval", *options)
    assert "was changed since cai eval wrote it" in changed.usage_error
    assert server.requests == 0
