"""The commands `near-miss` and `fit`: orderings of replies, and weights fitted to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runner import Capture, run_command
from json_lines import write_lines
from rubric_toys import SHIPPED

from cai.constitution import load_constitution
from cai.records import Prompt, chat_of


def test_near_misses_and_weights_fitted_to_them(capsys: Capture, tmp_path: Path) -> None:
    """Near misses, then weights fitted on them, then a constitution that has these weights."""
    prompts = tmp_path / "prompts.jsonl"
    ordered = tmp_path / "ordered.jsonl"
    output = tmp_path / "weights.yaml"
    prompt_rows = [
        Prompt(chat=chat_of(("user", f"{kind} {i}")), kind=kind)
        for kind in ("disallowed", "sensitive", "benign")
        for i in range(5)
    ]
    write_lines(prompts, *(prompt.line() for prompt in prompt_rows))
    constitution = ("--constitution", "refusal_style")
    files = ("--prompts", prompts, "--output", ordered)
    assert run_command(capsys, "near-miss", *constitution, *files).code == 0
    rows = [json.loads(line) for line in ordered.read_text().splitlines()]
    assert {row["rank"] for row in rows} >= {0, 1, 2}
    result = run_command(capsys, "fit", *constitution, "--input", ordered, "--output", output)
    assert result.code == 0
    assert "held-out pairs" in result.out
    fitted = load_constitution(output).rubric
    assert fitted is not None
    assert fitted.weights.keys() == SHIPPED.weights.keys()
    assert fitted.weights != SHIPPED.weights
    for behaviour, weights in fitted.weights.items():
        for name, weight in weights.items():
            assert weight * SHIPPED.weights[behaviour][name] >= 0, "signs are kept"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "response": "b", "rank": 1}, "needs `kind`"),
        ({"prompt": "a", "kind": "benign", "response": "b"}, "`rank`"),
        ({"prompt": "a", "kind": "benign", "response": "b", "rank": 0, "reward": "x"}, "`reward`"),
    ],
)
def test_wrong_rows_of_fit(
    capsys: Capture, tmp_path: Path, row: dict[str, object], why: str
) -> None:
    rows = write_lines(tmp_path / "rows.jsonl", row)
    files = ("--input", rows, "--output", tmp_path / "w.yaml")
    result = run_command(capsys, "fit", "--constitution", "refusal_style", *files)
    assert result.code == 2
    assert why in result.err
