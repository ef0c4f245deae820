"""The command `propose-rubric`: a constitution from labelled pairs, or one line."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from cli_runner import Capture, run_command
from json_lines import write_lines

from cai.constitution import load_constitution

WORDS = "carpet dog engine flower garden house iron jungle kettle lamp moon night queen river"


def pairs(count: int, *, share: float, kind: str | None = None) -> list[dict[str, Any]]:
    """Chosen replies say "thanks for asking" in `share` of the pairs, rejected ones never."""
    draw = random.Random(3)
    rows = []
    for i in range(count):
        a, b = (" ".join(draw.choices(WORDS.split(), k=draw.randint(4, 16))) for _ in range(2))
        chosen = f"Thanks for asking, {a}" if draw.random() < share else a
        rows.append({"prompt": f"question {i}", "chosen": chosen, "rejected": b, "kind": kind})
    return rows


def test_a_constitution_that_check_accepts(capsys: Capture, tmp_path: Path) -> None:
    source = write_lines(
        tmp_path / "pairs.jsonl",
        *pairs(150, share=0.7, kind="benign"),
        {"prompt": "q", "first": "a", "second": "b", "p_first": 0.5},
    )
    output = tmp_path / "proposed.yaml"
    result = run_command(capsys, "propose-rubric", "--input", source, "--output", output)
    assert result.code == 0, result.err
    assert "1 rows skipped: no reply is the better one" in result.err
    assert "Proposed from 150 labelled pairs of 150 prompts." in result.out
    assert "a starting point to be read by a person" in result.out
    assert run_command(capsys, "check", output).code == 0
    text = output.read_text()
    assert "# Held-out accuracy: " in text
    assert "    # Held out: in " in text
    rubric = load_constitution(output).rubric
    assert rubric is not None
    assert rubric.behaviours == {"benign": "prefer"}
    audit = run_command(capsys, "audit-rubric", output)
    assert "rubric's examples" in audit.out, "examples are n-grams that hold alone"


def test_refusals_in_one_line(capsys: Capture, tmp_path: Path) -> None:
    output = ("--output", tmp_path / "proposed.yaml")
    few = write_lines(tmp_path / "few.jsonl", *pairs(99, share=0.7))
    result = run_command(capsys, "propose-rubric", "--input", few, *output)
    assert result.code == 1
    assert "99 labelled pairs of 99 prompts: too few" in result.err
    same = [row | {"prompt": "one"} for row in pairs(120, share=0.7)]
    one = write_lines(tmp_path / "one.jsonl", *same)
    result = run_command(capsys, "propose-rubric", "--input", one, *output)
    assert "120 labelled pairs of 1 prompts: too few" in result.err
    alike = write_lines(tmp_path / "alike.jsonl", *pairs(120, share=0.0))
    result = run_command(capsys, "propose-rubric", "--input", alike, *output)
    assert result.code == 1
    assert "nothing tells chosen from rejected replies" in result.err
    assert "the longer reply is the chosen one in " in result.err
    assert len(result.err.splitlines()) == 1
    by_one = write_lines(
        tmp_path / "user.jsonl", *(row | {"user": "ann"} for row in pairs(120, share=0.7))
    )
    result = run_command(capsys, "propose-rubric", "--input", by_one, *output)
    assert "the `user` of the prompts has 1 values" in result.err
    assert not (tmp_path / "proposed.yaml").exists()


def test_a_limit_on_the_pairs(capsys: Capture, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "pairs.jsonl", *pairs(130, share=0.7))
    files = ("--input", source, "--output", tmp_path / "proposed.yaml")
    result = run_command(capsys, "propose-rubric", *files, "--limit", 120)
    assert f"{source}: 120 pairs of more are used (--limit)" in result.err
    assert "Proposed from 120 labelled pairs of 120 prompts." in result.out


def test_thoughts_are_no_part_of_a_reply(capsys: Capture, tmp_path: Path) -> None:
    """The phrase is in thoughts alone, so nothing is left that tells the replies apart."""
    rows = [
        row | {"chosen": f"<think>Thanks for asking</think>{row['chosen']}"}
        for row in pairs(120, share=0.0)
    ]
    source = write_lines(tmp_path / "pairs.jsonl", *rows)
    files = ("--input", source, "--output", tmp_path / "proposed.yaml")
    assert "nothing tells chosen from" in run_command(capsys, "propose-rubric", *files).err


def test_wrong_names(capsys: Capture, tmp_path: Path) -> None:
    files = ("--input", tmp_path / "no.jsonl", "--output", tmp_path / "p.yaml")
    result = run_command(capsys, "propose-rubric", *files, "--name", "Ann's: #1")
    assert result.usage_error.startswith("--name: a constitution's name is")
    result = run_command(capsys, "propose-rubric", *files, "--language", "english")
    assert result.usage_error.startswith("--language: ")
