"""The `label --report` command: the table of a file of labels, and wrong rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_toys import preference

from cai.cli import main


def test_report_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        json.loads(preference(i, ("kind", 2.0, -2.0), ("true", 1.0, 1.0)).line()) | {"human": 1}
        for i in range(6)
    ]
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit) as stop:
        main(["label", "--report", str(file)])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for text in (
        "6 pairs",
        "agreement with people",
        "1.000",
        "by principle",
        "kind",
        "true",
        "Krippendorff",
    ):
        assert text in out
    file.write_text(json.dumps({"p_first": 0.5, "human": 2}) + "\n")
    with pytest.raises(SystemExit) as stop:
        main(["label", "--report", str(file)])
    assert stop.value.code == 2
    assert f"{file}:1: `human` must be a number from 0 to 1" in capsys.readouterr().err
