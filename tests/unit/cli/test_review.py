"""The command review: where items come from, wrong usage, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_runner import Capture, run_command, run_file
from json_lines import write_lines
from report_toys import reply
from review_toys import pair, preference

from cai.artifacts import PAIRS, PREFERENCES, REPLIES, REVIEW
from cai.review.server import ReviewServer
from cai.review.session import ReviewAnswer
from cai.store import append_rows


def judge(monkeypatch: pytest.MonkeyPatch, *verdicts: str) -> list[Any]:
    """ReviewAnswer the first items when the page would be served; the list gets what was shown."""
    shown: list[Any] = []

    def answer(server: ReviewServer) -> None:
        for number in range(server.session.progress()["total"]):
            shown.append(server.session.view(number))
        for number, verdict in enumerate(verdicts):
            fields = {"number": number, "verdict": verdict, "seconds": 1}
            server.session.answer(ReviewAnswer.model_validate(fields))

    monkeypatch.setattr(ReviewServer, "serve_forever", answer)
    return shown


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's YAML; its folder has four labelled pairs and four graded replies."""
    file = run_file(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    rows = [pair(number) for number in range(4)]
    append_rows(folder / PAIRS, rows)
    append_rows(folder / PREFERENCES, [preference(row, 0.9, 0.4) for row in rows])
    replies = [
        reply(prompt, subject, response=f"{subject} {prompt}")
        for prompt in "ab"
        for subject in ("sft", "policy")
    ]
    append_rows(folder / REPLIES, replies)
    return file


def test_a_run_and_its_report(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    shown = judge(monkeypatch, "A", "B", "tie", "skip", "refused")
    for reviewer in ("ann", "bob"):
        result = run_command(capsys, "review", run, "--reviewer", reviewer, "--likert")
        assert result.code == 0
        assert result.out.startswith("http://127.0.0.1:")
        assert "8 items, 0 judged" in result.err
        assert "5 of 8 judged" in result.err
    assert [view["task"] for view in shown[:8]] == ["pair"] * 4 + ["reply"] * 4
    judgements = tmp_path / "out" / REVIEW
    before = judgements.read_bytes()
    report = run_command(capsys, "review", "--report", run)
    assert report.code == 0
    assert "judged: ann 4, bob 4" in report.out
    for text in ("kappa better reply", "ann / bob", "principle p1", "same choice", "kappa reply"):
        assert text in report.out
    assert judgements.read_bytes() == before
    judge(monkeypatch)
    assert "5 judged by ann" in run_command(capsys, "review", run, "--reviewer", "ann").err


def test_pairs_of_two_models(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    shown = judge(monkeypatch, "A", "tie")
    assert run_command(capsys, "review", run, "--compare", "sft", "policy").code == 0
    assert {frozenset(view["replies"]) for view in shown} == {
        frozenset({f"sft {prompt}", f"policy {prompt}"}) for prompt in "ab"
    }
    assert "win rate over sft" in run_command(capsys, "review", "--report", run).out
    result = run_command(capsys, "review", run, "--compare", "sft", "other")
    assert "no such subject in the replies (sft, policy)" in result.usage_error


def test_part_of_the_items(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for arguments, tasks in (
        (("--only", "replies", "--propositions"), ["reply"] * 4),
        (("--only", "pairs", "--items", 2, "--order", "random"), ["pair"] * 2),
    ):
        shown = judge(monkeypatch)
        assert run_command(capsys, "review", run, *arguments).code == 0
        assert [view["task"] for view in shown] == tasks
        assert bool(shown[0]["propositions"]) == ("--propositions" in arguments)


def test_files_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    file, output = tmp_path / "pairs.jsonl", tmp_path / "judged.jsonl"
    write_lines(file, {"prompt": "a?", "first": "x", "second": "y", "p_first": 0.7})
    judge(monkeypatch, "A")
    assert run_command(capsys, "review", "--pairs", file, "--output", output).code == 0
    report = run_command(capsys, "review", "--report", "--pairs", file, "--output", output)
    assert "judged: reviewer 1" in report.out
    write_lines(file, {"prompt": "b?", "first": "x", "second": "y", "p_first": 0.7})
    report = run_command(capsys, "review", "--report", "--pairs", file, "--output", output)
    assert "left out: 1 judged items" in report.out


def test_wrong_usage(run: Path, tmp_path: Path, capsys: Capture) -> None:
    pairs, missing = tmp_path / "out" / PAIRS, tmp_path / "none.jsonl"
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    for arguments, message in (
        ((), "give a run, or --pairs or --replies"),
        ((run, "--pairs", pairs), "give a run, or --pairs or --replies"),
        (("--pairs", pairs), "--output"),
        (("--preferences", pairs), "--preferences are labels of --pairs"),
        ((run, "--constitution", "harmless"), "constitution of its own"),
        (("--pairs", missing, "--output", tmp_path / "o.jsonl"), "none.jsonl"),
        (("--pairs", empty, "--output", tmp_path / "o.jsonl"), "nothing to judge"),
        ((run, "--reviewer", "a/../b"), "at most 40 letters"),
        ((run, "--output", tmp_path / "no" / "o.jsonl"), "cannot write"),
        ((run, "--output", pairs), "30-pairs.jsonl:1: "),
        (("--report", run), "run cai review first"),
        (
            ("--replies", tmp_path / "out" / REPLIES, "--output", missing, "--propositions"),
            "name a constitution with one",
        ),
    ):
        assert message in run_command(capsys, "review", *arguments).usage_error
