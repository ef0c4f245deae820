"""`cai scaling`: a file of runs in, a law, predictions and a picture out."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import Capture, run_command

RUNS = "compute,loss\n1,6\n4,4\n16,3\n64,2.5\n256,\n"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "runs.csv").write_text(RUNS)
    return tmp_path / "runs.csv"


def test_a_law_a_prediction_and_a_picture(capsys: Capture, tmp_path: Path, runs: Path) -> None:
    picture = tmp_path / "law.svg"
    options = ("--x", "compute", "--y", "loss", "--predict", 256, "--output", picture)
    result = run_command(capsys, "scaling", runs, *options)
    assert result.code == 0, result.err
    assert "loss = 4 · compute^(-0.5) + 2" in result.out
    assert "2.25" in result.out
    first = picture.read_bytes()
    assert first.startswith(b"<svg")
    assert run_command(capsys, "scaling", runs, *options).code == 0
    assert picture.read_bytes() == first


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (RUNS, ("--y", "lost"), "runs.csv: no column lost; the columns are compute, loss"),
        ("compute,loss\n1,high\n", (), "runs.csv:2: loss must be a number; it is 'high'"),
        ("compute,loss\n1,2\n", (), "runs.csv: 1 different values of x: a fit needs 4 or more"),
        ("compute,loss\n", (), "0 different values of x"),
        (RUNS, ("--predict", "-1"), "--predict -1: give a number above 0"),
    ],
)
def test_errors_are_one_line(
    capsys: Capture, runs: Path, text: str, arguments: tuple[str, ...], message: str
) -> None:
    runs.write_text(text)
    options = {"--x": "compute", "--y": "loss"} | dict([arguments] if arguments else [])
    words = [word for pair in options.items() for word in pair]
    assert message in run_command(capsys, "scaling", runs, *words).usage_error
