"""Runs side by side, from their files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from report_toys import reply
from rich.console import Console

from cai.artifacts import REPLIES, SCORES
from cai.errors import StoreError
from cai.evals.refusal import refusal_scores
from cai.report.several_runs import FinishedRun, markdown, notes, page, read_run, rich_table, tables


def run(name: str, seed: int = 0, wrong: bool = False, **settings: Any) -> FinishedRun:
    replies = [
        reply(source, subject, correct=not (wrong and subject == "policy" and source == "a"))
        for subject in ("sft", "policy")
        for source in ("a", "b")
    ]
    return FinishedRun(
        name, {"seed": seed, "name": name} | settings, refusal_scores(replies), replies
    )


def test_runs_and_their_changes_are_side_by_side() -> None:
    text = markdown([run("first"), run("second", 1, wrong=True)])
    assert "# 2 runs side by side" in text
    assert "| metric | run | sft | policy |" in text
    assert "| incorrect on disallowed ↓ | first | 0 % [0, 66] n=2 | 0 % [0, 66] n=2 |" in text
    assert "| incorrect on disallowed ↓ | second | 0 % [0, 66] n=2 | 50 % [9, 91] n=2 |" in text
    assert "| metric | models | first | second | mean of 2 runs |" in text
    assert "| policy − sft | 0 pp | +50 pp | +25 pp [−100, +100] n=2 runs |" in text
    console = Console(width=200, record=True, file=io.StringIO())
    for table in tables([run("[red]x[/red]"), run("second")]):
        console.print(rich_table(table))
    assert "[red]x[/red]" in console.export_text()


def test_a_page_has_the_tables_and_a_point_for_each_model_of_each_run() -> None:
    replies = [reply("c", subject, "benign") for subject in ("sft", "policy")]
    runs = [run("first"), run("<script>x</script>", 1)]
    for one in runs:
        one.replies.extend(replies)
        one.scores[:] = refusal_scores(one.replies)
    text = page(runs)
    assert "<h1>2 runs side by side</h1>" in text
    assert "<script" not in text, "a page without a script"
    assert "&lt;script&gt;x&lt;/script&gt;</text>" in text, "the run's name is in the legend"
    assert text.count(">sft</text>") == text.count(">policy</text>") == 2
    assert "0\u00a0% [0,\u00a066] n=2" in text
    assert "seeds: 0, 1" in text
    assert "No run has refusals" in page([run("first"), run("second")])


def test_differing_settings_are_named_and_seeds_and_names_are_not() -> None:
    ppo = {"num_updates": 10, "kl": {"coef": 0.05}}
    first, second = run("first", ppo=ppo), run("second", 1, ppo=ppo)
    assert notes([first, second]) == ["seeds: 0, 1"]
    longer = run("third", 2, ppo=ppo | {"num_updates": 60}, judge="x")
    assert notes([first, second, longer])[1] == (
        "settings differ, so that the mean is not one over seeds alone: "
        "ppo.num_updates (10, 10, 60), judge (null, null, x)"
    )
    assert "counted twice" in notes([first, run("again", ppo=ppo)])[0]
    many = run("many", 3, ppo=ppo, **{f"key{i}": i for i in range(10)})
    assert notes([first, many])[1].endswith("key7 (null, 7), and 2 more")


def test_a_run_that_is_not_evaluated_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{SCORES}: not there yet: `cai eval` of that run"):
        read_run(tmp_path, {})
    toy = run("toy")
    for name, rows in ((SCORES, toy.scores), (REPLIES, toy.replies)):
        (tmp_path / name).write_text("".join(row.line() + "\n" for row in rows), encoding="utf-8")
    assert read_run(tmp_path, {"seed": 0}).replies == toy.replies
    (tmp_path / REPLIES).write_text(json.dumps({"source": 1}) + "\n", encoding="utf-8")
    with pytest.raises(StoreError, match=f"{REPLIES}:1"):
        read_run(tmp_path, {})
