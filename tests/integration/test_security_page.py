"""The security page: its tests exist, and the statements on `cai`'s own source hold."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest
from docs_pages import DOCS, ROOT

from cai.cli.silence import quiet

FORBIDDEN = {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "pickle.load"}


def test_every_statement_has_a_test() -> None:
    """Each row of the table names tests as `FILE::NAME`, below tests/."""
    page = (DOCS / "security.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), name


def test_no_code_of_others_is_run() -> None:
    files = sorted((ROOT / "cai").rglob("*.py"))
    assert files
    for file in files:
        assert not offences(file), file


def offences(file: Path) -> list[str]:
    """Calls that run or unpickle text (but torch's that reads tensors only), imports of pickle, and
    `trust_remote_code` that is not False.
    """
    result = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name, keywords = ast.unparse(node.func), [ast.unparse(key) for key in node.keywords]
            if name in FORBIDDEN and "weights_only=True" not in keywords:
                result.append(name)
            result += [
                key.arg
                for key in node.keywords
                if key.arg == "trust_remote_code" and ast.unparse(key.value) != "False"
            ]
        if isinstance(node, ast.Import):
            result += [alias.name for alias in node.names if alias.name == "pickle"]
    return result


def test_telemetry_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    quiet()
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
