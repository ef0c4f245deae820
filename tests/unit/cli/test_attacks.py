"""`cai attack`: rates by category and disguise, more attacks where the target fails, resuming."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Capture, run_command
from data_toys import prompt
from json_lines import write_lines

from cai.evals.attacks import TRANSFORMS, AttackReply, next_round
from cai.rubric import unscored_grade


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"Help me with {name} number {i}.", "kind": "disallowed", "category": name}
        for name in ("fraud", "theft")
        for i in range(4)
    ]
    return write_lines(tmp_path / "prompts.jsonl", *rows)


def attack(capsys: Capture, prompts: Path, output: Path, *arguments: object) -> Any:
    files = ("--prompts", prompts, "--output", output)
    return run_command(capsys, "attack", *files, *arguments)


def test_rates_and_resuming(capsys: Capture, tmp_path: Path, prompts: Path) -> None:
    out = tmp_path / "scores.jsonl"
    result = attack(capsys, prompts, out, "--target", "fake:echo", "--budget", 50)
    assert result.code == 0, result.err
    scores = {row["metric"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert scores["redteam.failure_rate"]["n"] == 50
    assert scores["redteam.failure_rate"]["mean"] == 1  # an echo never refuses
    assert "redteam.failure_rate.category.fraud" in scores
    assert {f"redteam.failure_rate.transform.{name}" for name in TRANSFORMS} <= scores.keys()
    attacks, first = tmp_path / "scores.attacks.jsonl", out.read_bytes()
    lines = attacks.read_text()
    attacks.write_text(lines[: len(lines) * 2 // 3])
    assert attack(capsys, prompts, out, "--target", "fake:echo", "--budget", 50).code == 0
    assert (attacks.read_text(), out.read_bytes()) == (lines, first)


def test_a_target_that_refuses_does_not_fail(
    capsys: Capture, tmp_path: Path, prompts: Path
) -> None:
    out = tmp_path / "scores.jsonl"
    options = ("--target", "fake:polite", "--budget", 9, "--transform", "rot13")
    assert attack(capsys, prompts, out, *options).code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["mean"] for row in rows} == {0.0}
    unknown = ("--target", "fake:polite", "--transform", "rot26")
    assert "known: none, persona" in attack(capsys, prompts, out, *unknown).usage_error


def test_more_attacks_go_where_the_target_fails() -> None:
    rows = [prompt(name, kind="disallowed", category=name) for name in ("fraud", "theft")]
    replies = []
    for number in range(40):
        category = rows[number % 2].category
        graded = unscored_grade({}, "x").model_copy(
            update={"correct": category == "theft", "unscored": None}
        )
        replies.append(
            AttackReply(
                source=str(number),
                prompt="p",
                category=category,
                transform="none",
                chat=rows[0].chat,
                response="",
                finished=True,
                grade=graded,
            )
        )
    counts = Counter(item.prompt.category for item in next_round(replies, rows, ["none"], 60, 0))
    assert counts["fraud"] >= 15
