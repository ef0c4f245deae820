"""`cai ray` where Ray cannot start: one line, whatever is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_runner import Capture, run_command
from json_lines import write_lines

ENDPOINT = "http://127.0.0.1:1/v1#toy"


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)


def run_file(folder: Path, model: str) -> Path:
    write_lines(folder / "prompts.jsonl", {"prompt": "Q?", "kind": "benign"})
    file = folder / "run.yaml"
    file.write_text(
        f"name: toy\nmodel: {model}\nconstitution: assistant\nprompts: [prompts.jsonl]\n"
        f"folder: {folder}/run\n"
    )
    return file


def test_ray_is_an_extra(capsys: Capture, tmp_path: Path) -> None:
    file = run_file(tmp_path, ENDPOINT)
    line = run_command(capsys, "ray", "revise", file).usage_error
    assert line == "Ray is not installed: pip install 'cai[ray]'"
    assert not (tmp_path / "run").exists()


def test_a_model_that_runs_here(capsys: Capture, tmp_path: Path) -> None:
    line = run_command(capsys, "ray", "label", run_file(tmp_path, "fake:polite")).usage_error
    assert line.startswith("label asks fake:polite, which runs here: batch queues and Ray need")


def grade_options(folder: Path, model: str, output: str) -> tuple[object, ...]:
    source = folder / "replies.jsonl"
    write_lines(source, {"prompt": "Q?", "response": "R."})
    options = ("--constitution", "harmless", "--input", source, "--output", output)
    return ("ray", "grade", *options, "--model", model)


def test_grades_need_an_endpoint_and_files(capsys: Capture, tmp_path: Path) -> None:
    line = run_command(capsys, *grade_options(tmp_path, "fake:brief", "x.jsonl")).usage_error
    assert line.startswith("ray grade: --model fake:brief: name an endpoint")
    line = run_command(capsys, *grade_options(tmp_path, ENDPOINT, "-")).usage_error
    assert line == "ray grade: the input is read several times: name files, not -"
