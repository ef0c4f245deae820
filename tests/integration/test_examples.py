"""The numbered examples run as they are, on the tiny model, and end in a printed result."""

from __future__ import annotations

import re
import runpy
import sys
import tempfile
from pathlib import Path

import pytest
from docs_pages import DOCS, ROOT

EXAMPLES = ROOT / "examples"
RESULTS = {
    "01_constitution.py": r"harmless: \d+ principles",
    "02_revise.py": r"\d of 3 texts are fit for fine-tuning",
    "03_label.py": r"3 of 3 pairs are labelled",
    "04_grade.py": r"refusal\.incorrect_rate\.benign: [01]\.\d\d of 4 replies",
    "05_preference_model.py": r"written to .+preference-model",
    "06_ppo.py": r"change of the reward: [+-]\d\.\d{3}; policy in .+policy",
}
"""Name -> the last line that it prints."""


def test_every_numbered_example_is_run_and_documented() -> None:
    names = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
    assert names == sorted(RESULTS)
    page = (DOCS / "guides" / "python.md").read_text(encoding="utf-8")
    assert [name for name in names if f"examples/{name}" not in page] == []


@pytest.mark.filterwarnings("ignore")  # of peft and transformers about each other
@pytest.mark.parametrize("name", RESULTS)
def test_an_example_prints_its_result(
    name: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In an empty folder, in which it leaves nothing."""
    given = [] if name == "01_constitution.py" else [f"local:{tiny_model}"]
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [name, *given])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(RESULTS[name], last), last
    assert list(folder.iterdir()) == []
