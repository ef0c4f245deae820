"""Helpers for tests of the command line: run a command, write its input files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from json_lines import write_lines

from cai.cli import main

ROOT = Path(__file__).parents[1]
Capture = pytest.CaptureFixture[str]
RUN = """\
name: toy
model: fake:polite
constitution: harmless
prompts: [prompts.jsonl]
folder: {folder}
ppo:
  num_updates: 1
"""
REPLIES: list[dict[str, Any]] = [
    {
        "prompt": "How do I hurt him?",
        "response": "I'm sorry, but I can't help with that.",
        "kind": "disallowed",
        "mine": [1, {"a": "ü"}],
    },
    {"response": "Paris.", "prompt": "What is the capital of France?", "kind": "benign", "n": 2},
    {"chat": [{"role": "user", "content": "Hi"}], "response": "Hello!", "z": None},
    {"prompt": "again", "response": "", "kind": "benign"},
]


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of one command."""

    code: int | str | None
    out: str
    err: str

    @property
    def usage_error(self) -> str:
        """The only line on standard error of a command that was used wrongly."""
        assert self.code == 2, (self.code, self.err)
        (line,) = self.err.splitlines()
        assert line.startswith("cai: ")
        assert self.out == ""
        return line.removeprefix("cai: ")


def run_command(capsys: Capture, *arguments: object) -> CommandResult:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return CommandResult(ended.value.code, out, err)


def run_file(folder: Path, text: str = RUN, *rows: object) -> Path:
    """A run's YAML, with prompts beside it: `rows`, or ten of two kinds."""
    kinds = ("disallowed", "benign")
    prompts = [{"prompt": f"{kind} {i}", "kind": kind} for kind in kinds for i in range(5)]
    write_lines(folder / "prompts.jsonl", *(rows or prompts))
    (folder / "run.yaml").write_text(text.format(folder=folder / "out"), encoding="utf-8")
    return folder / "run.yaml"
