"""Odd numbers, full outputs and foreign rows: one line, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import ROOT, Capture, run_command, run_file, write_lines

from cai.errors import StoreError
from cai.pipeline.staleness import source_of
from cai.records import Preference, Prompt
from cai.store import digest, parse_row
from cai.train.ppo.resume import read_history

DIGITS = "9" * 5000


@pytest.mark.parametrize("field", ["rank", "reward"])
@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, DIGITS, "true", '"1"', "[1]"]
)
def test_fit_refuses_what_is_no_number(
    capsys: Capture, tmp_path: Path, field: str, value: str
) -> None:
    rank = "0" if field == "reward" else value
    reward = value if field == "reward" else "0.5"
    good = '{"prompt": "a", "kind": "benign", "response": "b", "rank": 1}'
    bad = good.replace('"rank": 1', f'"rank": {rank}, "reward": {reward}')
    source = write_lines(tmp_path / "in.jsonl", good, bad)
    options = ("--constitution", "harmless", "--input", source, "--output", tmp_path / "w.yaml")
    error = run_command(capsys, "fit", *options).usage_error
    assert error.startswith(f"{source}:2: ")
    assert len(error) < 300
    assert not (tmp_path / "w.yaml").exists()


@pytest.mark.parametrize("margin", ["nan", "inf", "-1", "0"])
def test_fit_refuses_a_margin_that_is_none(capsys: Capture, tmp_path: Path, margin: str) -> None:
    source = write_lines(tmp_path / "in.jsonl")
    options = ("--constitution", "harmless", "--input", source, "--output", tmp_path / "w.yaml")
    error = run_command(capsys, "fit", *options, "--margin", margin).usage_error
    assert error.startswith("--margin ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "command",
    [
        "show harmless",
        "check harmless",
        "diff harmless assistant",
        "schema",
        "clean rows.jsonl --output -",
        "clean rows.jsonl --output clean.jsonl",
        "grade --constitution harmless --input rows.jsonl --output -",
        "label --constitution harmless --model fake:brief --input rows.jsonl --output -",
        "revise --constitution harmless --model fake:polite --input rows.jsonl --output -",
        "eval --only refusal --model fake:polite --data rows.jsonl --output scores.jsonl",
    ],
)
def test_a_full_standard_output(tmp_path: Path, command: str) -> None:
    row = {"prompt": "Name a fish.", "kind": "benign", "response": "Cod."}
    write_lines(tmp_path / "rows.jsonl", row | {"first": "Cod.", "second": "Hake."})
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cai.cli", *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 1
    *progress, line = done.stderr.splitlines()
    assert line.startswith("cai: standard output, or a temporary file: No space left on device")
    assert not [text for text in progress if text.startswith((" ", "Traceback"))]


def test_an_error_of_the_system_is_one_line(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example where no folder for temporary files can be used."""

    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory")

    monkeypatch.setattr("cai.pipeline.config.load_run", fail)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    result = run_command(capsys, "run", run_file(tmp_path))
    assert result.code == 1
    assert "No usable temporary directory" in result.err
    assert len(result.err.splitlines()) == 1


def test_a_row_of_another_run(tmp_path: Path) -> None:
    row = Preference(source="elsewhere", p_first=0.5)
    with pytest.raises(StoreError, match=r"40\.jsonl: row .*: its source 'elsewhere' is no row of"):
        source_of(row, {}, tmp_path / "40.jsonl", "30-pairs.jsonl")


@pytest.mark.parametrize("with_id", [False, True])
def test_half_a_surrogate_pair_in_a_row(with_id: bool) -> None:
    data = {"chat": [{"role": "user", "content": "\ud800"}]} | ({"id": "x"} if with_id else {})
    with pytest.raises(StoreError, match=r"f:1: .*surrogate"):
        parse_row(data, Prompt, "f:1")


@pytest.mark.parametrize("line", ["{", "[1]", DIGITS, "[" * 100_000])
def test_edited_metrics(tmp_path: Path, line: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"update": 0}}\n{line}\n')
    with pytest.raises(StoreError, match=r"metrics\.jsonl: not the metrics") as caught:
        read_history(file, 5)
    assert "\n" not in str(caught.value)
    assert digest(file.read_bytes()) == digest(f'{{"update": 0}}\n{line}\n')


@pytest.mark.parametrize(
    "setting",
    [
        "epochs=2026-01-01",
        "epochs=2026-13-45",
        "batch_size=1:30",
        f"epochs={DIGITS}",
        "epochs=!!int abc",
        "epochs={? [1]: 2}",
        "learning_rate=.nan",
        "2026=3",
    ],
)
def test_odd_settings_of_the_preference_model(
    capsys: Capture, tmp_path: Path, tiny_model: Path, setting: str
) -> None:
    row = {"prompt": "a", "first": "b", "second": "c", "p_first": 1}
    source = write_lines(tmp_path / "in.jsonl", row)
    options = ("--model", f"local:{tiny_model}", "--input", source, "--output", tmp_path / "out")
    error = run_command(capsys, "fit-reward", *options, "--set", setting).usage_error
    assert error.startswith("--set ")
    assert len(error) < 300
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["rank", "reward"])
def test_fit_and_nan_in_a_table(capsys: Capture, tmp_path: Path, value: str) -> None:
    """A table's NaN is a missing value: a row needs a rank, and may have no reward."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"prompt": "a", "kind": "benign", "response": "b", "rank": 1.0, "reward": 0.5}
    rows = [row, row | {"rank": 0.0} | {value: float("nan")}]
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    options = ("--constitution", "harmless", "--input", source, "--output", tmp_path / "w.yaml")
    result = run_command(capsys, "fit", *options)
    if value == "rank":
        assert result.usage_error.startswith(f"{source}:2: a line needs `kind`, `rank`")
    else:
        assert "Traceback" not in result.err


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"{", b"[]", DIGITS.encode()])
def test_edited_settings_of_a_run(capsys: Capture, tmp_path: Path, content: bytes) -> None:
    """A command with the run's YAML writes them anew; one with its folder says what is wrong."""
    run = run_file(tmp_path)
    assert run_command(capsys, "revise", run).code == 2  # its prompts come first
    settings = tmp_path / "out" / "run.json"
    good = settings.read_bytes()
    settings.write_bytes(content)
    result = run_command(capsys, "revise", tmp_path / "out")
    assert result.usage_error.startswith(f"{settings}: not the settings of a run")
    assert "Traceback" not in run_command(capsys, "revise", run).err
    assert settings.read_bytes() == good
