"""Columns of public data sets become prompts with a kind. The rows are invented."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cai.data.readers import ReadOptions, prompt_rows
from cai.records import Prompt

EVAL_DATA = os.environ.get("CAI_EVAL_DATA")


def read(path: Path, rows: list[dict[str, Any]], **columns: str) -> list[Prompt]:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, list(rows[0]))
            out.writeheader()
            out.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return list(prompt_rows(path, ReadOptions(columns)))


def seen(prompts: list[Prompt]) -> list[tuple[str, str | None, str | None]]:
    return [(prompt.chat[-1].content, prompt.kind, prompt.category) for prompt in prompts]


def test_xstest(tmp_path: Path) -> None:
    """Safe prompts are borderline ones; an empty `focus` hides no row."""
    rows = [
        {"id": 1, "prompt": "Safe?", "type": "homonyms", "label": "safe", "focus": "", "note": ""},
        {"id": 2, "prompt": "Bad?", "type": "contrast_a", "label": "unsafe", "focus": "x",
         "note": ""},
    ]  # fmt: skip
    expected = [("Safe?", "benign", "borderline"), ("Bad?", "disallowed", "contrast_a")]
    assert seen(read(tmp_path / "x.csv", rows)) == expected


def test_xstest_completions(tmp_path: Path) -> None:
    """Without labels, the type tells."""
    names = ("homonyms", "contrast_homonyms")
    rows = [{"type": name, "prompt": name, "completion": "c", "final_label": "1"} for name in names]
    assert [p.kind for p in read(tmp_path / "x.csv", rows)] == ["benign", "disallowed"]


def test_advbench(tmp_path: Path) -> None:
    rows = [{"goal": "Do harm", "target": "Sure, here"}]
    assert seen(read(tmp_path / "a.csv", rows)) == [("Do harm", "disallowed", None)]


def test_harmbench(tmp_path: Path) -> None:
    rows = [
        {"Behavior": "Do it", "SemanticCategory": "s", "ContextString": "", "BehaviorID": "a"},
        {"Behavior": "Do it", "SemanticCategory": "", "ContextString": "About", "BehaviorID": "b"},
    ]
    assert seen(read(tmp_path / "h.csv", rows)) == [
        ("Do it", "disallowed", "s"),
        ("About\n\n---\n\nDo it", "disallowed", None),
    ]


def test_sorry_bench(tmp_path: Path) -> None:
    rows = [{"question_id": 1, "category": "7", "turns": ["Harm"], "prompt_style": "base"}]
    assert seen(read(tmp_path / "s.jsonl", rows)) == [("Harm", "disallowed", "7")]


@pytest.mark.parametrize(
    ("name", "kind", "category"),
    [
        ("or-bench-hard-1k.csv", "benign", "borderline"),
        ("or-bench-toxic.csv", "disallowed", "hate"),
        ("prompts.csv", None, "hate"),
    ],
)
def test_or_bench_is_known_by_its_name(
    tmp_path: Path, name: str, kind: str | None, category: str
) -> None:
    rows = [{"prompt": "Kill the lights", "category": "hate"}]
    assert seen(read(tmp_path / name, rows)) == [("Kill the lights", kind, category)]


def test_real_toxicity_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": {"text": "So he", "toxicity": 0.7}, "continuation": {"text": " went"}}]
    assert seen(read(tmp_path / "r.jsonl", rows)) == [("So he", None, None)]


def test_a_given_kind_and_column_stay(tmp_path: Path) -> None:
    rows = [{"goal": "G", "target": "T", "kind": "sensitive"}]
    assert seen(read(tmp_path / "a.csv", rows)) == [("G", "sensitive", None)]
    assert seen(read(tmp_path / "b.csv", rows, prompt="target")) == [("T", "sensitive", None)]


def test_a_text_has_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("\ufeffOne.\n\n  Two.\n", encoding="utf-8")
    assert [p.chat[-1].content for p in prompt_rows(path)] == ["One.", "Two."]


@pytest.mark.skipif(EVAL_DATA is None, reason="CAI_EVAL_DATA names no folder of public data")
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("xstest_prompts.csv", {"benign": 250, "disallowed": 200}),
        ("advbench.csv", {"disallowed": 520}),
        ("harmbench_val.csv", {"disallowed": 80}),
    ],
)
def test_published_files(name: str, counts: dict[str, int]) -> None:
    prompts = prompt_rows(Path(EVAL_DATA or "") / "prompts" / name)
    assert Counter(prompt.kind for prompt in prompts) == counts
