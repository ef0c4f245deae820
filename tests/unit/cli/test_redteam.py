"""The `redteam` command: messages, counts of rejected ones, exit codes."""

from __future__ import annotations

from pathlib import Path

from cli_runner import Capture, run_command
from data_toys import prompt
from json_lines import write_lines

from cai.records import Prompt
from cai.store import read_rows


def test_exit_codes_and_counts(capsys: Capture, tmp_path: Path) -> None:
    seeds = [
        prompt(f"seed {category} {i}", kind="disallowed", category=category)
        for category in ("fraud", "theft")
        for i in range(3)
    ]
    file = write_lines(tmp_path / "seeds.jsonl", *(seed.line() for seed in seeds))
    command = ("redteam", "--constitution", "harmless", "--seeds", file, "--category", "fraud")
    out = tmp_path / "out.jsonl"
    for model, code, expected in (
        ("fake:echo", 1, "nearly repeated"),
        ("fake:polite", 2, "made with another model"),
    ):
        options = ("--output", out, "--model", model, "--per-category", 3, "--tries", 2)
        result = run_command(capsys, *command, *options)
        assert result.code == code
        assert expected in result.out + result.err
    assert len(list(read_rows(out, Prompt))) == 1
    (tmp_path / "declines").mkdir()
    options = ("--output", tmp_path / "declines" / "out.jsonl", "--model", "fake:polite")
    result = run_command(capsys, *command, *options, "--per-category", 2)
    assert "10 declined" in result.out
