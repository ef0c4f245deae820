"""`cai eval --only NAME` of questions with options."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Capture, run_command, write_lines
from endpoint import endpoint

from cai.data.readers import located_rows
from cai.evals.choices import SINGLE_TOKENS, ChoiceAnswer
from cai.records import Score
from cai.store import read_rows

PAIRS = [{"prompt": f"Hi {i}", "chosen": f"Hello {i}", "rejected": f"Go {i}"} for i in range(9)]


def evaluate(capsys: Capture, name: str, data: Path, out: Path, *more: object) -> Any:
    given = ("--only", name, "--data", data, "--output", out)
    return run_command(capsys, "eval", "--model", "fake:echo", *given, *more)


def test_scores_and_answers_are_written(tmp_path: Path, capsys: Capture) -> None:
    """Without a preference, every pair has an answer of one bit: confidence 1/2."""
    data, out = write_lines(tmp_path / "hhh.jsonl", *PAIRS), tmp_path / "scores.jsonl"
    result = evaluate(capsys, "hhh", data, out, "--limit", 5)
    assert result.code == 0
    scores = {score.metric: score for score in read_rows(out, Score)}
    assert (scores["hhh.confidence"].mean, scores["hhh.accuracy"].n) == (0.5, 5)
    assert scores["hhh.accuracy"].subject == "fake:echo"
    answers = list(read_rows(tmp_path / "scores.items.jsonl", ChoiceAnswer))
    assert len(answers) == 5
    assert len(answers[0].logprobs or ()) == 2
    assert "hhh.accuracy" in result.out
    again = evaluate(capsys, "hhh", data, out, "--limit", 5)
    assert (again.code, again.out) == (0, result.out)
    other = evaluate(capsys, "hhh", data, out, "--limit", 6)
    assert other.code == 2
    assert "made with another questions" in other.err


def test_an_endpoint_gives_letters_but_no_replies(tmp_path: Path, capsys: Capture) -> None:
    """Its null rows are counted, with their reason; nothing is asked for them."""
    data = tmp_path / "pairs.csv"
    with data.open("w", encoding="utf-8") as file:
        csv.writer(file).writerows([("sent_more", "sent_less"), ("a b", "a c")])
    out = tmp_path / "scores.jsonl"
    with endpoint(tmp_path / "server", always="400") as server:
        result = evaluate(capsys, "crows-pairs", data, out, "--model", server.spec)
    assert result.code == 0
    assert SINGLE_TOKENS in result.err
    assert "3 of 3 rows are null" in result.err
    for score in read_rows(out, Score):
        assert (score.mean, score.n, score.unscored) == (None, 0, 1)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("bbq", (), "hhh.jsonl:1: context: Field required"),
        ("bbq", ("--column", "prompt=x"), "--column: bbq reads the columns of its own format"),
        ("moods", (), "no such evaluation; known: refusal, "),
        ("hhh", ("--limit", 0), "--limit"),
    ],
)
def test_wrong_usage_is_one_line(
    tmp_path: Path, capsys: Capture, name: str, more: tuple[object, ...], message: str
) -> None:
    data = write_lines(tmp_path / "hhh.jsonl", *PAIRS)
    result = evaluate(capsys, name, data, tmp_path / "scores.jsonl", *more)
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "scores.jsonl").exists()


def test_answers_go_beside_a_file(tmp_path: Path, capsys: Capture) -> None:
    data = write_lines(tmp_path / "hhh.jsonl", *PAIRS)
    result = evaluate(capsys, "hhh", data, Path("-"))
    assert result.code == 2
    assert "must be a file" in result.err


def test_the_limit_holds_for_refusals_too(tmp_path: Path, capsys: Capture) -> None:
    rows = [{"prompt": f"Hi {i}", "kind": "benign"} for i in range(9)]
    data, out = write_lines(tmp_path / "prompts.jsonl", *rows), tmp_path / "scores.jsonl"
    assert evaluate(capsys, "refusal", data, out, "--limit", 4).code == 0
    scores = {score.metric: score for score in read_rows(out, Score)}
    assert scores["refusal.refusal_rate.benign"].n == 4


@pytest.mark.parametrize("start", ["\ufeff", "\n", "\n\n\ufeff", "\r\n", "\ufeff\n"])
def test_a_table_may_begin_with_empty_lines_and_a_mark(tmp_path: Path, start: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(f"{start}prompt,kind\nHi,benign\n".encode())
    [(location, row)] = located_rows(path)
    assert row == {"prompt": "Hi", "kind": "benign"}
    assert location == f"{path}:{start.count(chr(10)) + 2}"
