"""The examples of the documentation are what the program accepts and prints."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml
from docs_pages import DOCS, ROOT, blocks, fences
from typer.testing import CliRunner

from cai import records
from cai.cli import app
from cai.constitution import load_constitution
from cai.rubric import compile_rubric, grade
from cai.simulation.machines import load_machine

ROWS = [
    (page, kind, line)
    for kind in ("Prompt", "Revision", "Pair", "Preference", "EvalReply", "ScoredReply", "Score")
    for page, inside in blocks(f"<!-- row: {kind} -->")
    for line in inside.splitlines()
]


@pytest.mark.parametrize(("page", "kind", "line"), ROWS)
def test_example_rows_are_rows(page: str, kind: str, line: str) -> None:
    """The type accepts it, and its id is that of its content."""
    row = getattr(records, kind).model_validate_json(line)
    assert row.id == json.loads(line)["id"]


def test_every_artefact_with_rows_has_an_example() -> None:
    assert {kind for _, kind, _ in ROWS} == {
        "Prompt",
        "Revision",
        "Pair",
        "Preference",
        "EvalReply",
        "ScoredReply",
        "Score",
    }


def test_example_constitutions_load(tmp_path: Path) -> None:
    found = blocks("<!-- yaml: constitution -->")
    assert found
    for page, inside in found:
        file = tmp_path / "mine.yaml"
        file.write_text(
            inside.replace(
                "extends: [harmless]", f"extends: [{ROOT / 'constitutions' / 'harmless.yaml'}]"
            )
        )
        assert load_constitution(file).principles, page


def test_example_machines_load(tmp_path: Path) -> None:
    found = blocks("<!-- yaml: machine -->")
    assert found
    for page, inside in found:
        file = tmp_path / "mine.yaml"
        file.write_text(inside)
        assert load_machine(str(file)).engine, page


def test_example_yaml_is_yaml() -> None:
    examples = blocks("<!-- yaml: .* -->")
    assert examples, "no page has such a block: the marker is misspelled"
    for _, inside in examples:
        yaml.safe_load(inside)


def test_the_example_grade_is_what_the_rubric_says() -> None:
    [(_, inside)] = blocks("<!-- grade -->")
    told = json.loads(inside)
    constitution = load_constitution(ROOT / "constitutions" / "harmless.yaml")
    assert constitution.rubric is not None
    found = grade(
        compile_rubric(constitution.rubric),
        prompt=told["prompt"],
        response=told["response"],
        kind=told["kind"],
    )
    assert (found.class_, found.style, found.degree, found.correct) == (
        told["class"],
        told["style"],
        told["degree"],
        told["correct"],
    )
    assert found.score == pytest.approx(told["score"])


def printed(page: str, command: str) -> list[str]:
    """What a page shows below a command, up to the next one or the fence's end."""
    for _, _, inside in fences((DOCS / page).read_text(encoding="utf-8")):
        lines = inside.splitlines()
        if f"$ {command}" in lines:
            below = lines[lines.index(f"$ {command}") + 1 :]
            return below[
                : next((i for i, line in enumerate(below) if line.startswith("$ ")), len(below))
            ]
    raise AssertionError(f"{page}: no line $ {command}")


def test_the_worked_label_is_what_the_command_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "stages/label.md"
    command = (
        "cai label --constitution helpful_honest --model fake:brief"
        " --input examples/pairs.jsonl --output labelled.jsonl"
    )
    assert printed(page, command) == []
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, shlex.split(command)[1:])
    assert found.exit_code == 0, found.output
    lines = (tmp_path / "labelled.jsonl").read_text(encoding="utf-8").splitlines()
    first, second = map(json.loads, lines)
    pairs = (ROOT / "examples" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert printed(page, "head -1 examples/pairs.jsonl") == pairs[:1]
    [shown] = map(json.loads, printed(page, "head -1 labelled.jsonl"))
    assert first["p_first"] == pytest.approx(1 / (1 + math.exp(2)), abs=1e-15)
    assert flat(first) == pytest.approx(flat(shown), abs=1e-12)
    assert (second["p_first"], second["unscored"]) == (None, "the two replies are the same")


def flat(value: object, key: str = "") -> dict[str, object]:
    """Leaves by path, so that numbers can be compared approximately."""
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else None
    )
    if pairs is None:
        return {key: value}
    return {k: v for name, inner in pairs for k, v in flat(inner, f"{key}/{name}").items()}


@pytest.mark.parametrize(("page", "code"), blocks("<!-- run -->"))
def test_snippets_run(
    page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python blocks after `<!-- run -->`: once plainly, and once inside a running event loop."""
    monkeypatch.chdir(tmp_path)
    compiled = compile(code, page, "exec")
    exec(compiled, {})  # noqa: S102  # the project's own page

    async def notebook() -> None:
        exec(compiled, {})  # noqa: S102

    asyncio.run(notebook())


def message_fragments() -> list[tuple[str, str]]:
    """(message, its longest part without placeholders) of the catalogue of frequent messages."""
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    table = page.partition("## Frequent messages")[2].partition("## Environment")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    parts = [re.split(r"\b[A-Z]+(?:_[A-Z]+)*\b|…|\d+", message) for message in messages]
    return [(m, max(p, key=len).strip(" :,;")) for m, p in zip(messages, parts, strict=True)]


@pytest.mark.parametrize(("message", "fragment"), message_fragments())
def test_frequent_messages_are_those_of_the_program(message: str, fragment: str) -> None:
    assert fragment in source_strings(), message


@cache
def source_strings() -> str:
    """All of the package's source, strings that continue on the next line joined."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "cai").rglob("*.py"))]
    return re.sub(r"[\"']\s*\n\s*[rf]*[\"']", "", "\n".join(texts))
