"""The `cai` command: help texts, exit codes, one-line errors, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli_runner import REPLIES, Capture, run_command, run_file, write_lines

from cai.artifacts import STAGES

COMMANDS = (
    "check",
    "show",
    "diff",
    "import",
    "schema",
    "clean",
    "redteam",
    "grade",
    "calibrate",
    "near-miss",
    "fit",
    "run",
    "plan",
    "export",
    "review",
    "chat",
    *STAGES[1:],
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(capsys: Capture, command: str) -> None:
    result = run_command(capsys, command, "--help")
    assert result.code == 0
    assert f"Example: cai {command} " in result.out
    assert result.err == ""


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 2)])
def test_help_names_every_command(capsys: Capture, arguments: list[str], code: int) -> None:
    """With --help, and without any argument."""
    result = run_command(capsys, *arguments)
    assert (result.code, result.err) == (code, "")
    assert all(command in result.out for command in COMMANDS)
    assert "Example: cai run " in result.out


def test_wrong_commands(capsys: Capture) -> None:
    assert "polish" in run_command(capsys, "polish").usage_error
    assert "RUN.yaml" in run_command(capsys, "run").usage_error
    assert "--frmo" in run_command(capsys, "run", "x.yaml", "--frmo", "sft").usage_error
    assert run_command(capsys, "run", "nowhere.yaml").usage_error == "nowhere.yaml: no such file"


def test_failed_work_is_exit_code_1(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cai.errors import TrainError
    from cai.pipeline import stages

    def fails(ctx: object) -> None:
        raise TrainError("ppo: the loss is nan; lower ppo.optimization.learning_rate")

    monkeypatch.setitem(stages.RUN_STAGE, "prompts", fails)
    result = run_command(capsys, "run", run_file(tmp_path))
    assert (result.code, result.out) == (1, "")
    assert result.err == "cai: ppo: the loss is nan; lower ppo.optimization.learning_rate\n"


def test_the_tree_of_commands_is_put_together_once(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_command(capsys, "show", "harmless").code == 0
    monkeypatch.setattr("cai.cli.get_command", None)
    assert run_command(capsys, "show", "harmless").code == 0


def start_process(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cai.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_the_module_runs_and_needs_no_torch_to_grade(tmp_path: Path) -> None:
    """Through pipes, with torch hidden: grading must not import it, which takes seconds."""
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    arguments = ("grade", "--constitution", "harmless", "--input", "-", "--output", "-")
    child = start_process(*arguments, stdin=subprocess.PIPE, env=environment)
    out, err = child.communicate(json.dumps(REPLIES[1]) + "\n", timeout=60)
    assert (child.returncode, err) == (0, "")
    assert json.loads(out)["style"] == "safe_answer"


def test_a_model_elsewhere_needs_no_torch(tmp_path: Path) -> None:
    """Stages of a run and an evaluation, with torch hidden."""
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = ("run", run_file(tmp_path), "--until", "revise")
    data = ("--data", tmp_path / "prompts.jsonl", "--output", tmp_path / "scores.jsonl")
    evaluation = ("eval", "--only", "refusal", "--model", "fake:polite", *data)
    for command in (run, evaluation):
        child = start_process(*command, env=environment)
        _, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
    assert (tmp_path / "out" / "10-revisions.jsonl").stat().st_size > 0


def test_a_wrong_input_has_no_traceback(tmp_path: Path) -> None:
    child = start_process("check", tmp_path / "none.yaml")
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"cai: {tmp_path}/none.yaml: no such file")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_line_and_an_exit_code(
    tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    """Interrupted or terminated while it waits for input, after it has graded one line.

    What it has written stays, and it says how to resume.
    """
    output = tmp_path / "out.jsonl"

    def default_sigint() -> None:  # a test suite in a shell's background inherits "ignored"
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    child = start_process(
        *("grade", "--constitution", "harmless", "--input", "-", "--output", output),
        stdin=subprocess.PIPE,
        preexec_fn=default_sigint,
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(REPLIES[0]) + "\n")
    child.stdin.flush()
    for _ in range(600):
        if output.exists() and output.read_bytes().endswith(b"\n"):
            break
        time.sleep(0.1)
    time.sleep(0.3)
    child.send_signal(sent)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (code, "")
    assert err == "cai: interrupted; finished work is saved: run the same command to resume\n"
    assert len(output.read_text(encoding="utf-8").splitlines()) == 1


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    """`cai grade … | head -1`"""
    source = write_lines(tmp_path / "in.jsonl", *(REPLIES * 500))
    child = start_process("grade", "--constitution", "harmless", "--input", source, "--output", "-")
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    assert "Traceback" not in child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=60) != 0


def test_a_terminal_without_these_characters(tmp_path: Path) -> None:
    """Text for people gets a question mark; data stays UTF-8."""
    write_lines(tmp_path / "prompts.jsonl", [{"prompt": "Where is 日本?", "kind": "benign"}])

    def clean(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "cai.cli", "clean", "prompts.jsonl", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
        )

    explained = clean("--explain", "日本")
    assert (explained.returncode, explained.stdout) == (2, b"")
    assert explained.stderr == b"cai: --explain ??: no prompt has this id\n"
    written = clean("--output", "-")
    assert (written.returncode, written.stderr) == (0, b"")
    assert "日本".encode() in written.stdout
