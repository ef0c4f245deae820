"""The commands check, show, diff, import and schema."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from cli_runner import ROOT, RUN, Capture, run_command, run_file

from cai import store
from cai.constitution import find_constitution, load_constitution, read_yaml
from cai.constitution.json_schema import MODELINE
from cai.constitution.load import SHIPPED
from cai.records import Revision


def test_shipped_constitutions_are_clean(capsys: Capture) -> None:
    """Also one that decides anew what its base decided by propositions of the base's."""
    shipped = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    assert "refusal_style_fitted" in shipped
    result = run_command(capsys, "check", *shipped)
    assert result.code == 0, result.out
    names = [line.split(":")[0] for line in result.out.splitlines()]
    assert names == shipped
    assert all(": clean (" in line for line in result.out.splitlines())


def test_check_findings(capsys: Capture, tmp_path: Path) -> None:
    """A principle without texts to revise or to compare by: a finding each, and exit code 1."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "name: c\nversion: '1'\nprinciples:\n  - {id: lonely, category: x}\n", encoding="utf-8"
    )
    result = run_command(capsys, "check", file)
    assert result.code == 1
    assert "lonely" in result.out
    assert all(line.startswith(f"{file}: ") for line in result.out.splitlines())
    assert result.err == ""


def test_check_cannot_read(capsys: Capture, tmp_path: Path) -> None:
    error = run_command(capsys, "check", tmp_path / "none.yaml").usage_error
    assert error.startswith(f"{tmp_path}/none.yaml: no such file")
    file = tmp_path / "c.yaml"
    file.write_text("name: c\nversion: '1'\nprincipels: []\n", encoding="utf-8")
    error = run_command(capsys, "check", file).usage_error
    assert error == f"{file}:3: principels: unknown key 'principels': did you mean 'principles'?"


def test_show(capsys: Capture) -> None:
    result = run_command(capsys, "show", "harmless")
    assert result.code == 0
    assert "no-serious-harm" in result.out
    assert result.err == ""
    assert "did you mean 'harmless'?" in run_command(capsys, "show", "harmles").usage_error


def test_show_renders_what_a_model_would_see(capsys: Capture, tiny_model: Path) -> None:
    """Three chats for a principle with three texts, each with its number of tokens.

    They contain the principle's texts, and placeholders for the request and the replies.
    """
    model = f"local:{tiny_model}"
    show = ("show", "harmless", "--render", "--principle")
    result = run_command(capsys, *show, "no-violence", "--model", model)
    assert result.code == 0
    heads = [line for line in result.out.splitlines() if line.startswith("====")]
    assert [head.split()[2] for head in heads] == ["critique", "revision", "compare"]
    assert all(re.search(rf"\(\d+ tokens of {re.escape(model)}\)$", head) for head in heads)
    principles = load_constitution(find_constitution("harmless")).principles
    principle = next(each for each in principles if each.id == "no-violence")
    texts = (principle.critique, principle.revision, principle.compare)
    for text in (*texts, "(the request)", "(the other reply)"):
        assert str(text) in result.out
    assert "no such id; ids: " in run_command(capsys, *show, "x").usage_error


TWO_PRINCIPLES = """\
name: two
version: '1'
principles:
  - {id: kind, category: c, critique: Is it kind, revision: Make it kind., compare: Which is kind}
  - {id: fair, category: c, critique: Is it fair, revision: Make it fair., compare: Which is fair}
"""


def test_diff(capsys: Capture, tmp_path: Path) -> None:
    """Differences by part and field; exit 0 for equal constitutions."""
    edited = TWO_PRINCIPLES.replace("Make it kind.", "Be kind.").replace("id: fair", "id: honest")
    (tmp_path / "a.yaml").write_text(TWO_PRINCIPLES, encoding="utf-8")
    (tmp_path / "b.yaml").write_text(edited, encoding="utf-8")
    result = run_command(capsys, "diff", tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert result.out.splitlines() == [
        "changed principle:kind: revision",
        "removed principle:fair",
        "added principle:honest",
    ]
    assert result.code == 1
    same = run_command(capsys, "diff", tmp_path / "a.yaml", tmp_path / "a.yaml")
    assert (same.code, same.out) == (0, "")


def test_diff_counts_the_rows_of_a_run_that_become_stale(capsys: Capture, tmp_path: Path) -> None:
    """The rows that used the changed principle, by id with --ids. No file is changed."""
    file = run_file(tmp_path, RUN.replace("harmless", "own.yaml"))
    base = ROOT / "constitutions" / "refusal_style.yaml"
    old = TWO_PRINCIPLES.replace("principles:", f"extends: [{base}]\nprinciples:")
    (tmp_path / "own.yaml").write_text(old, encoding="utf-8")
    (tmp_path / "new.yaml").write_text(old.replace("Make it kind.", "Be kind."), encoding="utf-8")
    assert run_command(capsys, "run", file, "--until", "revise").code == 0
    rows = list(store.read_rows(tmp_path / "out/10-revisions.jsonl", Revision))
    stale = [row.id for row in rows if any(step.principle == "kind" for step in row.rounds)]
    before = sorted((tmp_path / "out").iterdir())
    result = run_command(
        capsys, "diff", tmp_path / "own.yaml", tmp_path / "new.yaml", "--run", file, "--ids"
    )
    assert stale
    assert result.out.splitlines() == [
        "changed principle:kind: revision",
        f"10-revisions.jsonl: {len(stale)} of {len(rows)} rows become stale",
        *(f"  {id}" for id in stale),
    ]
    assert sorted((tmp_path / "out").iterdir()) == before


def test_import(capsys: Capture, tmp_path: Path) -> None:
    """A constitution on standard output, notes on standard error."""
    (tmp_path / "theirs.json").write_text(
        json.dumps(["Prefer the kinder answer."]), encoding="utf-8"
    )
    result = run_command(capsys, "import", tmp_path / "theirs.json", "--name", "mine")
    note = "note: principles have no critique or revision text: they only label pairs\n"
    assert (result.code, result.err) == (0, note)
    (tmp_path / "mine.yaml").write_text(result.out, encoding="utf-8")
    imported = load_constitution(tmp_path / "mine.yaml")
    assert imported.principles[0].compare == "Prefer the kinder answer."
    result = run_command(capsys, "import", tmp_path / "theirs.json", "--name", "My Own")
    assert "lower-case letters" in result.usage_error


def test_the_schema_is_the_one_beside_the_constitutions(capsys: Capture) -> None:
    """Editors use the file: it is the printed schema, and every shipped constitution points to it.

    Every shipped constitution is valid under it as well.
    """
    printed = json.loads(run_command(capsys, "schema").out)
    folder = ROOT / "constitutions"
    assert printed == json.loads((folder / "constitution.schema.json").read_text(encoding="utf-8"))
    for file in folder.glob("*.yaml"):
        assert file.read_text(encoding="utf-8").startswith(MODELINE + "\n")
        jsonschema.validate(read_yaml(file).data, printed)
    with pytest.raises(jsonschema.ValidationError, match="'principels' was unexpected"):
        jsonschema.validate({"name": "x", "version": "1", "principels": []}, printed)
