"""The command `audit-rubric`: table, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cli_runner import Capture, run_command
from rubric_toys import MODEL_TOY

FROM_A_MODEL = {"name": "toy", "version": "1", "rubric": MODEL_TOY}


def constitution(folder: Path) -> Path:
    file = folder / "toy.yaml"
    file.write_text(yaml.safe_dump(FROM_A_MODEL))
    return file


def test_table_and_json(capsys: Capture, tmp_path: Path) -> None:
    output = tmp_path / "audit.json"
    result = run_command(capsys, "audit-rubric", "refusal_style", "--output", output)
    assert result.code == 0
    assert result.out.startswith("more than the ideal reply, by +")
    assert "refuse (disallowed)" in result.out
    audit = json.loads(output.read_text())
    assert (audit["constitution"], audit["grader"]) == ("refusal_style", "patterns")
    assert audit["ungraded_propositions"] == {}
    for row in audit["rows"]:
        assert row["gain"] == pytest.approx(row["reward"] - row["compared"])
    hidden = run_command(capsys, "audit-rubric", "refusal_style", "--all").out
    assert len(hidden.splitlines()) > len(result.out.splitlines())


def test_exit_code_with_a_limit_on_the_gain(capsys: Capture) -> None:
    assert run_command(capsys, "audit-rubric", "refusal_style", "--max-gain", 5).code == 0
    result = run_command(capsys, "audit-rubric", "refusal_style", "--max-gain", 1)
    assert result.code == 1
    assert "replies gain more than 1; the most: " in result.err
    wrong = run_command(capsys, "audit-rubric", "refusal_style", "--max-gain", "nan")
    assert wrong.usage_error == "--max-gain nan: give a finite number of reward"


def test_without_a_model_what_it_would_decide_is_null(capsys: Capture, tmp_path: Path) -> None:
    """A limit is not kept where nobody knows the gains."""
    file = constitution(tmp_path)
    output = tmp_path / "audit.json"
    result = run_command(capsys, "audit-rubric", file, "--output", output)
    assert result.code == 0
    assert result.out.startswith("kind: null: only a model can decide it")
    audit = json.loads(output.read_text())
    assert audit["ungraded_propositions"].keys() == {"kind"}
    assert {row["reward"] for row in audit["rows"]} == {None}
    limited = run_command(capsys, "audit-rubric", file, "--max-gain", 9)
    assert limited.code == 1
    assert "have no reward" in limited.err


def test_with_a_model(capsys: Capture, tmp_path: Path) -> None:
    output = tmp_path / "audit.json"
    arguments = ("--model", "fake:polite", "--output", output)
    result = run_command(capsys, "audit-rubric", constitution(tmp_path), *arguments)
    assert result.code == 0, result.err
    audit = json.loads(output.read_text())
    assert audit["grader"] != "patterns"
    assert audit["ungraded_propositions"] == {}
    assert None not in {row["reward"] for row in audit["rows"]}


def test_a_language_without_replies_is_one_line(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump(FROM_A_MODEL | {"language": "fr"}))
    assert "no replies in 'fr' are shipped" in run_command(capsys, "audit-rubric", file).usage_error
    japanese = Path(__file__).parents[3] / "cai/shipped/audit_banks/ja.yaml"
    result = run_command(capsys, "audit-rubric", "harmless", "--bank", japanese)
    assert "patterns know one language" in result.usage_error
    options = ("--connections", 2)
    assert (
        "only with --model" in run_command(capsys, "audit-rubric", "harmless", *options).usage_error
    )
