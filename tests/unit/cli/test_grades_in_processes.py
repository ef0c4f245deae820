"""`cai grade` in several processes: the same bytes and the same errors as in one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from cli_runner import REPLIES, Capture, CommandResult, run_command, write_lines
from rubric_toys import TOY

import cai
import cai.process_map
from cai.cli import grades

ROWS = [
    *REPLIES,
    {"prompt": "How?", "response": "<think>Hm.</think>Mix it with water.", "kind": "disallowed"},
    {"prompt": "How?", "response": "<think>Hm.", "kind": "benign"},
    {"prompt": "Why?", "response": "", "kind": "sensitive", "mine": [1.5, None, "é"]},
]


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(grades, "LINES_PER_WRITE", 2)
    text = yaml.safe_dump({"name": "toy", "version": "1", "principles": [], "rubric": TOY})
    (tmp_path / "toy.yaml").write_text(text, encoding="utf-8")


def grade(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, files: tuple[Path, Path], processes: int
) -> CommandResult:
    monkeypatch.setattr(grades, "LONG_INPUT", 1)
    monkeypatch.setattr(cai.process_map, "usable_cores", lambda: processes)
    source, output = files
    options = ("--constitution", source.parent / "toy.yaml", "--explain", "--prefix", "my_")
    return run_command(capsys, "grade", *options, "--input", source, "--output", output)


def test_the_output_is_that_of_one_process(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From the start, and resumed in the middle, with the same words on standard error."""
    source = write_lines(tmp_path / "in.jsonl", *ROWS, *ROWS, *ROWS)
    output = tmp_path / "out.jsonl"
    one = grade(capsys, monkeypatch, (source, output), 1)
    expected = output.read_bytes()
    assert one.code == 0
    assert expected.count(b"\n") == 3 * len(ROWS)
    for lines in (0, 5):
        output.write_bytes(b"".join(expected.splitlines(keepends=True)[:lines]) + b'{"prom')
        assert grade(capsys, monkeypatch, (source, output), 2) == one
        assert output.read_bytes() == expected


def test_a_wrong_line_is_the_same_error_after_the_same_lines(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for wrong in ({"prompt": "x"}, "not json"):
        source = write_lines(tmp_path / "in.jsonl", *ROWS, *ROWS, wrong, *ROWS)
        results = []
        for processes in (1, 2):
            output = tmp_path / "out.jsonl"
            error = grade(capsys, monkeypatch, (source, output), processes).usage_error
            results.append((error, output.read_bytes()))
            output.unlink()
        assert results[0] == results[1]
        assert results[0][0].startswith(f"{source}:{2 * len(ROWS) + 1}: ")
        assert results[0][1].count(b"\n") == 2 * len(ROWS)


def test_a_short_file_and_a_stream_start_no_process(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cai.process_map, "map_in_processes", None)
    monkeypatch.setattr(cai.process_map, "usable_cores", lambda: 2)
    source = write_lines(tmp_path / "in.jsonl", *ROWS)
    options = ("--constitution", tmp_path / "toy.yaml", "--input", source, "--output", "-")
    assert run_command(capsys, "grade", *options).code == 0


def test_ctrl_c_is_one_line_and_loses_nothing(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = write_lines(tmp_path / "in.jsonl", *ROWS * 3000)
    output = tmp_path / "out.jsonl"
    options = ("--constitution", tmp_path / "toy.yaml", "--input", source, "--output", output)
    script = (
        "import sys; from cai.cli import grades, main\n"
        "import cai.process_map; cai.process_map.usable_cores = lambda: 2\n"
        "grades.LONG_INPUT = 1; main(sys.argv[1:])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "grade", *map(str, options)],
        env=os.environ | {"PYTHONPATH": str(Path(cai.__file__).parents[1])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not (output.exists() and output.stat().st_size):
            time.sleep(0.02)
        os.killpg(process.pid, 2)
        _, errors = process.communicate(timeout=20)
    interrupted = "cai: interrupted; finished work is saved: run the same command to resume\n"
    assert (process.returncode, errors) == (130, interrupted)
    first = output.read_bytes()
    assert first.endswith(b"\n")
    source = write_lines(tmp_path / "in.jsonl", *ROWS * (first.count(b"\n") // len(ROWS) + 1))
    output.write_bytes(first)
    assert run_command(capsys, "grade", *options).code == 0
    assert output.read_bytes().startswith(first)
