"""Outputs of file tools: nobody else's file is touched, and two works never share one."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Capture, CommandResult, run_command, write_lines

from cai.store import manifest_path

PROMPTS = [{"prompt": f"Do harm number {i}.", "kind": "disallowed"} for i in range(3)]
ROWS: dict[str, list[dict[str, Any]]] = {
    "revise": PROMPTS,
    "label": [{"prompt": f"Say {i}.", "first": f"one {i}", "second": f"two {i}"} for i in range(3)],
    "grade": [{"prompt": f"Say {i}.", "response": f"No {i}.", "kind": "benign"} for i in range(3)],
}
WITH_MODEL = {"revise": "fake:polite", "label": "fake:echo"}
FIELD = {"revise": "final", "label": "votes", "grade": "score"}
"""A field that the tool adds."""
Tool = Callable[..., CommandResult]


@pytest.fixture(params=list(ROWS))
def command(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tool(capsys: Capture, command: str) -> Tool:
    """The command on (input, output), with further options."""

    def run(
        source: Path, output: Path, *more: str, constitution: str = "harmless"
    ) -> CommandResult:
        options: list[object] = ["--constitution", constitution, "--input", source]
        if command in WITH_MODEL:
            options += ["--model", WITH_MODEL[command]]
        return run_command(capsys, command, *options, "--output", output, *more)

    return run


def test_the_input_is_no_output(tmp_path: Path, tool: Tool, command: str) -> None:
    """By its name, by another path, and by a link."""
    source = write_lines(tmp_path / "in.jsonl", *ROWS[command])
    before = source.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(source)
    for output in (source, tmp_path / "." / "in.jsonl", tmp_path / "link.jsonl"):
        assert "this is the input itself" in tool(source, output).usage_error
    assert source.read_bytes() == before


@pytest.mark.parametrize("text", ["notes without a last newline", '{"mine": 1}\n', "\n"])
def test_a_file_of_others_stays_as_it_is(
    tmp_path: Path, tool: Tool, command: str, text: str
) -> None:
    source = write_lines(tmp_path / "in.jsonl", *ROWS[command])
    output = tmp_path / "notes.txt"
    output.write_text(text)
    assert "there is a file already" in tool(source, output).usage_error
    assert output.read_text() == text
    assert "this is a folder" in tool(source, tmp_path).usage_error


def test_a_new_or_empty_file_is_taken(tmp_path: Path, tool: Tool, command: str) -> None:
    source = write_lines(tmp_path / "in.jsonl", *ROWS[command])
    (tmp_path / "empty.jsonl").touch()
    for name in ("new.jsonl", "empty.jsonl"):
        assert tool(source, tmp_path / name).code == 0
        assert len((tmp_path / name).read_text().splitlines()) == 3
    assert (tmp_path / "new.jsonl").read_bytes() == (tmp_path / "empty.jsonl").read_bytes()


def test_another_constitution_is_another_output(tmp_path: Path, tool: Tool, command: str) -> None:
    source = write_lines(tmp_path / "in.jsonl", *ROWS[command])
    output = tmp_path / "out.jsonl"
    assert tool(source, output).code == 0
    before = output.read_bytes()
    assert "another constitution" in tool(source, output, constitution="assistant").usage_error
    assert output.read_bytes() == before
    assert tool(source, output).code == 0
    assert output.read_bytes() == before


@pytest.mark.parametrize("command", ["revise", "label"])
def test_another_seed_or_setting_is_another_output(
    tmp_path: Path, tool: Tool, command: str
) -> None:
    source = write_lines(tmp_path / "in.jsonl", *ROWS[command])
    output = tmp_path / "out.jsonl"
    assert tool(source, output).code == 0
    assert "another seed" in tool(source, output, "--seed", "1").usage_error
    setting = ("--rounds", "2") if command == "revise" else ("--principles", "2")
    assert "another config" in tool(source, output, *setting).usage_error
    assert "another model" in tool(source, output, "--model", "fake:brief").usage_error


def test_another_command_is_another_output(tmp_path: Path, capsys: Capture) -> None:
    source = write_lines(tmp_path / "in.jsonl", *ROWS["grade"])
    output, options = tmp_path / "out.jsonl", ("--constitution", "harmless", "--input", source)
    assert run_command(capsys, "grade", *options, "--output", output).code == 0
    revise = ("revise", *options, "--output", output, "--model", "fake:polite")
    assert "another command (grade)" in run_command(capsys, *revise).usage_error


def test_another_input_is_found_by_its_lines(tmp_path: Path, tool: Tool, command: str) -> None:
    """Changed, or shortened; a longer one is resumed."""
    rows = ROWS[command]
    source, output = write_lines(tmp_path / "in.jsonl", *rows[:2]), tmp_path / "out.jsonl"
    assert tool(source, output).code == 0
    changed = write_lines(tmp_path / "changed.jsonl", rows[0], rows[2])
    result = tool(changed, output)
    assert result.code == 2
    assert f"{output}:2: this is not {changed}:2 with fields added" in result.err
    shorter = write_lines(tmp_path / "shorter.jsonl", rows[0])
    assert f"{output}:2: the input has no such line" in tool(shorter, output).err
    assert tool(write_lines(tmp_path / "longer.jsonl", *rows), output).code == 0
    assert len(output.read_text().splitlines()) == 3


def test_own_fields_are_not_overwritten(tmp_path: Path, tool: Tool, command: str) -> None:
    """Refused before anything is written of that batch, by name and line."""
    mine = ROWS[command][1] | {FIELD[command]: "mine"}
    source = write_lines(tmp_path / "in.jsonl", ROWS[command][0], mine)
    result = tool(source, tmp_path / "out.jsonl")
    assert result.code == 2
    assert f"{source}:2: `{FIELD[command]}` is a field that this command adds" in result.err
    assert (tmp_path / "out.jsonl").read_text() == ""


def test_a_prefix_keeps_own_fields(tmp_path: Path, tool: Tool, command: str) -> None:
    """The refusal names it. The values are those without it; another prefix, another output."""
    rows = ROWS[command]
    plain, output = tmp_path / "plain.jsonl", tmp_path / "out.jsonl"
    source = write_lines(tmp_path / "in.jsonl", *rows)
    assert tool(source, plain).code == 0
    assert "--prefix" in tool(plain, output).err
    assert tool(plain, output, "--prefix", "2.").code == 0
    before = output.read_bytes()
    for line in output.read_text().splitlines():
        row = json.loads(line)
        added = {name: value for name, value in row.items() if name.startswith("2.")}
        assert f"2.{FIELD[command]}" in added
        assert added == {name: row[name.removeprefix("2.")] for name in added}
    assert "another prefix" in tool(plain, output, "--prefix", "3.").usage_error
    assert "another prefix" in tool(plain, output).err
    assert tool(plain, output, "--prefix", "2.").code == 0
    assert output.read_bytes() == before


@pytest.mark.parametrize("prefix", ["a b", "\udcff", '"', "\n"])
def test_a_prefix_is_a_word(tmp_path: Path, tool: Tool, command: str, prefix: str) -> None:
    source = write_lines(tmp_path / "in.jsonl", *ROWS[command])
    error = tool(source, tmp_path / "out.jsonl", "--prefix", prefix).usage_error
    assert "use letters, digits, dots, dashes and underscores" in error


def test_a_run_has_no_prefix(tmp_path: Path, capsys: Capture) -> None:
    for command in ("revise", "label"):
        error = run_command(capsys, command, "run.yaml", "--prefix", "x_").usage_error
        assert "run.yaml and --prefix: give a run's YAML or a file tool's options" in error


def test_two_processes_do_not_write_one_file(tmp_path: Path, tool: Tool, command: str) -> None:
    source, output = write_lines(tmp_path / "in.jsonl", *ROWS[command]), tmp_path / "out.jsonl"
    with output.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        result = tool(source, output)
    assert (result.code, output.read_bytes()) == (2, b"")
    assert "another process is writing it" in result.err
    assert tool(source, output).code == 0


def test_the_manifest_names_what_decides_the_rows(tmp_path: Path, tool: Tool, command: str) -> None:
    output = tmp_path / "out.jsonl"
    assert tool(write_lines(tmp_path / "in.jsonl", *ROWS[command]), output).code == 0
    manifest = json.loads(manifest_path(output).read_text())
    assert manifest["stage"] == command
    assert {"constitution", "model"} <= manifest["provenance"].keys()


@pytest.mark.parametrize("command", ["eval", "redteam"])
def test_sidecars_of_others_stay_as_they_are(tmp_path: Path, capsys: Capture, command: str) -> None:
    """The replies of eval and the attempts of redteam lie beside the output, by their own names."""
    data = write_lines(tmp_path / "in.jsonl", *PROMPTS)
    output = tmp_path / "out.jsonl"
    sidecar = tmp_path / ("out.items.jsonl" if command == "eval" else "out.attempts.jsonl")
    options: dict[str, tuple[object, ...]] = {
        "eval": ("--only", "refusal", "--model", "fake:polite", "--data", data),
        "redteam": ("--constitution", "harmless", "--model", "fake:echo", "--seeds", data),
    }
    arguments = (command, *options[command], "--output")
    sidecar.write_text("mine, and no newline")
    assert "there is a file already" in run_command(capsys, *arguments, output).usage_error
    assert sidecar.read_text() == "mine, and no newline"
    before = data.read_bytes()
    assert "this is the input itself" in run_command(capsys, *arguments, data).usage_error
    assert data.read_bytes() == before
