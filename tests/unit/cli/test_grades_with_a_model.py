"""Rubric commands that call a model: `grade` and `calibrate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runner import run_command
from json_lines import write_lines
from rubric_toys import MODEL_TOY

from cai.constitution import load_constitution


def test_grade_with_and_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = tmp_path / "toy.yaml"
    book.write_text(json.dumps({"name": "toy", "version": "1", "rubric": MODEL_TOY}))
    first, second = (
        {"prompt": "Do it.", "kind": "disallowed", "response": response, "n": i}
        for i, response in enumerate(("I can't.", "Yes."))
    )
    rows = write_lines(tmp_path / "rows.jsonl", first, second)
    command = ("grade", "--constitution", book, "--input", rows, "--output", "-")
    without_model = run_command(capsys, *command)
    assert without_model.code == 2
    assert "only a model can decide kind" in without_model.err
    graded = run_command(capsys, *command, "--model", "fake:echo", "--explain")
    assert graded.code == 0
    result = [json.loads(line) for line in graded.out.splitlines()]
    assert [(row["n"], row["propositions"]["kind"], row["degree"]) for row in result] == [
        (0, 0.5, "full_refusal"),
        (1, 0.5, "full_compliance"),
    ]
    assert any(line.startswith("class: ") for line in result[0]["explanation"])


def test_calibrate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fake judge gives even odds: no temperature changes that. One-sided labels are skipped."""
    book, rows, out = tmp_path / "toy.yaml", tmp_path / "rows.jsonl", tmp_path / "calibrated.yaml"
    book.write_text(json.dumps({"name": "toy", "version": "1", "rubric": MODEL_TOY}))
    command = ("calibrate", "--constitution", book, "--model", "fake:echo")
    command += ("--input", rows, "--output", out)
    labels = [{"kind": i % 2 == 0, "declines": True} for i in range(4)]
    write_lines(
        rows, *({"prompt": "a", "response": "b", "propositions": label} for label in labels)
    )
    result = run_command(capsys, *command)
    assert result.code == 0
    assert "kind: temperature" in result.out
    assert "declines: left alone" in result.err
    rubric = load_constitution(out).rubric
    assert rubric is not None
    assert set(rubric.temperatures) == {"kind"}
    write_lines(rows, {"prompt": "a", "response": "b", "propositions": {"kin": True}})
    result = run_command(capsys, *command)
    assert result.code == 2
    assert "propositions.kin: the rubric has no such proposition" in result.err
