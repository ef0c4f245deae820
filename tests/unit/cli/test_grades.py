"""The command grade: fields and order kept, resumption, wrong lines."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest
from cli_runner import REPLIES, Capture, CommandResult, run_command, write_lines

from cai.cli import grades


def grade(capsys: Capture, source: object, output: object) -> CommandResult:
    return run_command(
        capsys, "grade", "--constitution", "harmless", "--input", source, "--output", output
    )


def test_grade_keeps_fields_and_order(capsys: Capture, tmp_path: Path) -> None:
    source, output = write_lines(tmp_path / "in.jsonl", *REPLIES), tmp_path / "out.jsonl"
    result = grade(capsys, source, output)
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines() == [
        "grade: 1 of 4 rows are null",
        "grade: 1 null: no kind: the rubric cannot know what the reply should do",
    ]
    graded = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    for given, got in zip(REPLIES, graded, strict=True):
        assert {key: got[key] for key in given} == given
        assert list(got)[: len(given)] == list(given)
        assert {"propositions", "class", "style", "degree", "score", "unscored"} <= got.keys()
    assert (graded[0]["style"], graded[0]["degree"]) == ("desired_refusal", "full_refusal")
    assert graded[1]["style"] == "safe_answer"
    assert (graded[2]["score"], graded[2]["class"]) == (None, None)
    assert graded[2]["unscored"].startswith("no kind")


@pytest.mark.parametrize("cut", [0, 1, 2, 4])
def test_grade_resumes_after_a_kill(capsys: Capture, tmp_path: Path, cut: int) -> None:
    """The output has some lines and a torn one: the missing lines are added, the others kept."""
    source, output = write_lines(tmp_path / "in.jsonl", *REPLIES), tmp_path / "out.jsonl"
    assert grade(capsys, source, output).code == 0
    expected = output.read_bytes()
    output.write_bytes(b"".join(expected.splitlines(keepends=True)[:cut]) + b'{"prompt": "to')
    assert grade(capsys, source, output).code == 0
    assert output.read_bytes() == expected


def test_grade_from_and_to_standard_streams(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source, output = write_lines(tmp_path / "in.jsonl", *REPLIES), tmp_path / "out.jsonl"
    grade(capsys, source, output)
    data = source.read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    result = grade(capsys, "-", "-")
    assert (result.code, result.out) == (0, output.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("not json", "in.jsonl:2: not JSON (Expecting value): 'not json'"),
        ({"prompt": "x"}, "in.jsonl:2: a line needs `response` (text)"),
        ({"prompt": "x", "response": 3}, "in.jsonl:2: a line needs `response` (text)"),
        (
            {"response": "x"},
            "in.jsonl:2: a row needs either `prompt` (text) or `chat` (a list of role and content)",
        ),
        (
            {"prompt": "x", "response": "y", "kind": "odd"},
            "in.jsonl:2: kind: Input should be 'disallowed', 'sensitive' or 'benign'",
        ),
    ],
)
def test_grade_names_a_wrong_line(
    capsys: Capture, tmp_path: Path, row: object, message: str
) -> None:
    source = write_lines(tmp_path / "in.jsonl", REPLIES[0], row)
    assert grade(capsys, source, tmp_path / "out.jsonl").usage_error.startswith(
        f"{tmp_path}/{message}"
    )


def test_grade_wants_a_rubric_and_files(capsys: Capture, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", *REPLIES)
    bare = tmp_path / "bare.yaml"
    bare.write_text("name: c\nversion: '1'\nprinciples: []\n", encoding="utf-8")
    result = run_command(
        capsys, "grade", "--constitution", bare, "--input", source, "--output", "-"
    )
    assert result.usage_error == f"{bare}: no rubric in it"
    assert "cannot read" in grade(capsys, tmp_path / "none.jsonl", "-").usage_error
    result = grade(capsys, source, tmp_path / "none" / "out.jsonl")
    assert "none/out.jsonl: cannot write" in result.usage_error
    result = run_command(capsys, "grade", "--constitution", "harmless", "--input", source)
    assert "output" in result.usage_error


def test_a_full_disk_is_one_line(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = write_lines(tmp_path / "in.jsonl", *REPLIES), tmp_path / "out.jsonl"
    real_write, writes_left = os.write, 2

    def write_until_full(handle: int, data: bytes) -> int:
        nonlocal writes_left
        writes_left -= 1
        if writes_left < 0:
            raise OSError(28, "No space left on device")
        return real_write(handle, data)

    monkeypatch.setattr(os, "write", write_until_full)
    monkeypatch.setattr(grades, "LINES_PER_WRITE", 1)
    error = grade(capsys, source, output).usage_error
    assert error == f"{output}: the disk is full; nothing finished is lost: make room and run again"
    monkeypatch.undo()
    assert len(output.read_text(encoding="utf-8").splitlines()) == 2
    assert grade(capsys, source, output).code == 0
    assert len(output.read_text(encoding="utf-8").splitlines()) == 4
