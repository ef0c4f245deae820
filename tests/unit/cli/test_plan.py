"""`cai plan --machine`: hours and money of many prompts elsewhere, with what they rest on."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import Capture, run_command
from json_lines import write_lines

RUN = """\
name: planned
model: fake:polite
constitution: assistant
prompts: [prompts.jsonl]
held_out: 0.5
folder: out
revise: {helpful_samples: 2}
"""


@pytest.fixture(autouse=True)
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kinds = ("disallowed", "benign")
    write_lines(
        tmp_path / "prompts.jsonl",
        *({"prompt": f"question {i}", "kind": kinds[i % 2]} for i in range(40)),
    )
    (tmp_path / "run.yaml").write_text(RUN)


def test_two_machines_at_two_sizes(capsys: Capture) -> None:
    machines = ("--machine", "h100", "--machine", "batch-queue")
    result = run_command(
        capsys, "plan", "run.yaml", "--probe", 4, *machines, "--prompts", "1000,100_000_000"
    )
    assert result.code == 0, result.err
    for text in ("1,000", "100,000,000", "simulated, not measured", "turnaround", "34470"):
        assert text in result.out
    assert "- engine.prefill_tokens_per_second 34470 (published): GPUStack" in result.out
    # every row is printed for both sizes; half of the prompts have two draws
    assert result.out.count("│ revise") == 1 + 4
    again = run_command(
        capsys, "plan", "run.yaml", "--probe", 4, *machines, "--prompts", "1000,100_000_000"
    )
    assert again.out.partition("machine")[2] == result.out.partition("machine")[2]


@pytest.mark.parametrize("text", ["0", "many", "10,", "-5", "1e6", "9" * 30, "²"])
def test_numbers_that_are_none(capsys: Capture, text: str) -> None:
    result = run_command(capsys, "plan", "run.yaml", "--machine", "h100", f"--prompts={text}")
    assert "is no whole number from 1 to 1,000,000,000,000" in result.usage_error


def test_machines_are_checked_before_anything_is_tried(capsys: Capture, tmp_path: Path) -> None:
    result = run_command(capsys, "plan", "run.yaml", "--machine", "h200")
    assert "no machine 'h200'" in result.usage_error
    result = run_command(capsys, "plan", "run.yaml", "--prompts", "10")
    assert "--machine" in result.usage_error
    assert not (tmp_path / "out").exists()
