"""`cai clean` on the inputs that people have: pipes, other columns, wrong rows."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from pathlib import Path

import pytest
from cli_runner import Capture, run_command
from data_toys import SENTENCE, prompt

from cai.cli import main
from cai.data.readers import prompt_rows
from cai.data.writers import write_prompts

ROWS = "".join(json.dumps({"prompt": f"Question {i}?"}) + "\n" for i in range(3))


def exit_code(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_standard_input_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the rows are printed; nothing is written to a file named "-"."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ROWS.encode())))
    assert exit_code("clean", "-", "--output", "-") == 0
    printed = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["chat"][0]["content"] for line in printed] == [
        f"Question {i}?" for i in range(3)
    ]
    assert not Path("-").exists()


def test_a_named_pipe_is_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(ROWS,))
    writer.start()
    assert exit_code("clean", tmp_path / "pipe", "--output", tmp_path / "o.jsonl") == 0
    writer.join()
    assert len(list(prompt_rows(tmp_path / "o.jsonl"))) == 3


def test_wrong_rows_are_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = '{"prompt": null}\n{"prompt": \n{"prompt": "cut \\ud83d"}\n{"prompt": " "}\n' * 2
    (tmp_path / "a.jsonl").write_text(ROWS + bad)
    assert exit_code("clean", tmp_path / "a.jsonl", "--output", tmp_path / "o.jsonl") == 0
    printed = capsys.readouterr()
    assert len(list(prompt_rows(tmp_path / "o.jsonl"))) == 3
    assert "wrong row" in printed.out
    for number in range(4, 9):
        assert f"skipped {tmp_path}/a.jsonl:{number}: " in printed.err
    assert "skipped 3 more rows" in printed.err


def test_strict_stops_at_a_wrong_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("prompt\nHi\nHello, you\n")
    output = tmp_path / "o.jsonl"
    assert exit_code("clean", tmp_path / "a.csv", "--output", output, "--strict") == 2
    assert "a.csv:3: 2 cells, but the header names 1" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "a.csv: no prompt in it"), ("goal\nx\n", "its keys are goal"), ("prompt\na,b\n", ":2:")],
)
def test_a_file_without_a_readable_row_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, why: str
) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert exit_code("clean", tmp_path / "a.csv", "--output", tmp_path / "o.jsonl") == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()


def test_columns_of_other_names(tmp_path: Path) -> None:
    """For the files of evaluation texts too, which may have the usual names instead."""
    (tmp_path / "a.csv").write_text("Goal\nWrite a story about a very small green boat\nSing\n")
    (tmp_path / "e.csv").write_text("Goal\nwrite a story about a very small green boat\n")
    (tmp_path / "f.csv").write_text("prompt\nSomething else\n")
    output = tmp_path / "o.jsonl"
    against = ("--against", tmp_path / "e.csv", "--against", tmp_path / "f.csv")
    arguments = ("clean", tmp_path / "a.csv", "--output", output, *against)
    assert exit_code(*arguments, "--column", "prompt=Goal") == 0
    assert [row.chat[0].content for row in prompt_rows(output)] == ["Sing"]


@pytest.mark.parametrize("option", ["Goal", "promt=Goal", "prompt="])
def test_wrong_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    (tmp_path / "a.jsonl").write_text(ROWS)
    output = tmp_path / "o.jsonl"
    assert exit_code("clean", tmp_path / "a.jsonl", "--output", output, "--column", option) == 2
    assert f"--column {option}: write FIELD=KEY" in capsys.readouterr().err


def test_an_output_of_another_format_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "o.csv"
    assert exit_code("clean", tmp_path / "missing.jsonl", "--output", output) == 2
    assert "o.csv: written as JSONL or Parquet only" in capsys.readouterr().err


def test_clean(capsys: Capture, tmp_path: Path) -> None:
    """A table with a count for each reason, a file of the kept prompts, one explanation."""
    prompts = [
        prompt("a b c"),
        prompt("a b c", kind="benign"),
        prompt(SENTENCE),
        prompt(SENTENCE.replace("warm", "hot")),
    ]
    write_prompts(tmp_path / "in.jsonl", prompts)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    table = run_command(capsys, "clean", source, "--output", output, "--near", "0.6")
    assert table.code == 0
    lines = table.out.splitlines()
    for name, count in (("kept", 2), ("repeated", 1)):
        assert any(name in line and f" {count} " in line for line in lines)
    assert list(prompt_rows(output)) == [prompts[0], prompts[2]]
    explained = run_command(capsys, "clean", source, "--near", "0.6", "--explain", prompts[3].id)
    assert explained.code == 0
    explanation = f"{prompts[3].id}: nearly repeated (as {prompts[2].id}, row 3)\n"
    assert explained.out == explanation


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "say where what stays goes"),
        (["--output", "o.jsonl", "--near", "0.1"], "--near: Input should be greater than 0.5"),
        (
            ["--output", "o.jsonl", "--pii", "hide"],
            "--pii: Input should be 'keep', 'mask' or 'drop'",
        ),
        (["--explain", "none"], "--explain none: no prompt has this id"),
    ],
)
def test_wrong_usage_of_clean(
    capsys: Capture, tmp_path: Path, arguments: list[str], why: str
) -> None:
    write_prompts(tmp_path / "in.jsonl", [prompt("a")])
    result = run_command(capsys, "clean", tmp_path / "in.jsonl", *arguments)
    assert result.code == 2
    assert why in result.err
