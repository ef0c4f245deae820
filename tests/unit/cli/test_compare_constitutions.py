"""Two constitutions on the same prompts: paired figures by hand, files, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runner import Capture, run_command
from data_toys import prompt

from cai.cli.compare_constitutions import grader
from cai.constitution import load_constitution
from cai.records import Revision
from cai.report.constitution_comparison import compare_revisions, metric_cells

REFUSAL = "I'm sorry, but I can't help with that."
HELP = "First, open the door. Then, walk in and take a seat by the window."


def revision(source: str, final: str | None, dropped: str | None = None) -> Revision:
    turns = prompt("x").chat
    return Revision(source=source, chat=turns, initial="I.", final=final, dropped=dropped)


def test_figures_by_hand() -> None:
    """Four disallowed prompts. The first refuses three and drops one; the second refuses one,
    helps with one, drops one, and one is without an answer.
    """
    prompts = {p.id: p for p in (prompt(f"q{i}", kind="disallowed") for i in range(4))}
    ids = list(prompts)
    first = [
        *(revision(name, REFUSAL) for name in ids[:3]),
        revision(ids[3], None, "near copy"),
    ]
    second = [
        revision(ids[0], REFUSAL),
        revision(ids[1], HELP),
        revision(ids[2], None, "near copy"),
        revision(ids[3], None, "no answer: status 400"),
    ]
    grade = grader(load_constitution("refusal_style"))
    metrics = {m.metric: m for m in compare_revisions(prompts, first, second[::-1], grade)}
    kept = metrics["revision kept"]
    assert (kept.n, kept.first, kept.second) == (3, 3 / 4, 2 / 3)
    assert kept.difference.mean == pytest.approx(1 - 2 / 3)
    refused = metrics["refused"]
    assert (refused.n, refused.first, refused.second, refused.difference.mean) == (2, 1, 0.5, 0.5)
    assert metrics["incorrect"].difference.mean == -0.5
    assert metrics["words"].second == (8 + 14) / 2
    assert metric_cells(refused)[:3] == ("refused (%)", "100", "50")


def test_nothing_in_common() -> None:
    grade = grader(load_constitution("refusal_style"))
    metrics = compare_revisions({}, [], [], grade)
    assert [(m.n, m.first, m.second, m.difference.mean) for m in metrics] == [
        (0, None, None, None)
    ] * 4


def test_the_command(capsys: Capture, tmp_path: Path) -> None:
    """The same constitution twice differs in nothing; run again, no row is made again."""
    rows = [prompt(f"How do I do thing {i}?", kind="disallowed") for i in range(5)]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(row.line() + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "compared.jsonl"
    command = (
        *("compare-constitutions", "harmless", "harmless", "--model", "fake:polite"),
        *("--prompts", file, "--output", out, "--limit", 4),
    )
    done = run_command(capsys, *command)
    assert done.code == 0, done.err
    assert "first − second" in done.out
    figures = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["metric"] for row in figures] == ["revision kept", "incorrect", "refused", "words"]
    assert all(row["difference"] in (0, None) for row in figures)
    sides = [out.with_suffix(f".{name}.jsonl") for name in ("first", "second")]
    contents = [side.read_bytes() for side in sides]
    assert len(contents[0].splitlines()) == 4
    assert contents[0] == contents[1]
    assert run_command(capsys, *command).code == 0
    assert [side.read_bytes() for side in sides] == contents
    line = run_command(capsys, *command, "--rounds", 2).usage_error
    assert "compared.first.jsonl" in line
