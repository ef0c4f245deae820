"""The `clean` command: filtered prompts, the count of each reason, explanations."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import Capture, run_command
from data_toys import SENTENCE, prompt

from cai.data.readers import prompt_rows
from cai.data.writers import write_prompts


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
