"""The `label --report` command: the table of a file of labels, and wrong rows."""

from __future__ import annotations

import json
from pathlib import Path

from cli_runner import Capture, run_command
from json_lines import write_lines
from report_toys import preference


def test_report_of_a_file(capsys: Capture, tmp_path: Path) -> None:
    rows = [
        json.loads(preference(i, ("kind", 2.0, -2.0), ("true", 1.0, 1.0)).line()) | {"human": 1}
        for i in range(6)
    ]
    file = write_lines(tmp_path / "labels.jsonl", *rows)
    report = run_command(capsys, "label", "--report", file)
    assert report.code == 0
    for text in (
        "6 pairs",
        "agreement with people",
        "1.000",
        "by principle",
        "kind",
        "true",
        "Krippendorff",
    ):
        assert text in report.out
    write_lines(file, {"p_first": 0.5, "human": 2})
    wrong = run_command(capsys, "label", "--report", file)
    assert wrong.code == 2
    assert f"{file}:1: `human` must be a number from 0 to 1" in wrong.err


def test_report_of_fields_with_a_prefix(capsys: Capture, tmp_path: Path) -> None:
    rows = [json.loads(preference(i, ("kind", 2.0, -2.0)).line()) for i in range(3)]
    named = [{"a_" + key: value for key, value in row.items()} | {"p_first": 7} for row in rows]
    file = write_lines(tmp_path / "labels.jsonl", *rows)
    expected = run_command(capsys, "label", "--report", file)
    write_lines(file, *named)
    assert run_command(capsys, "label", "--report", file, "--prefix", "a_") == expected
    missing = run_command(capsys, "label", "--report", file, "--prefix", "b_")
    assert missing.usage_error == f"{file}:1: not a label: it has no `b_p_first`"
