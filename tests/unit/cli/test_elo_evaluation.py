"""`cai eval --only elo`: subjects, prompted baselines, people's verdicts, and resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Capture, run_command
from endpoint import endpoint
from json_lines import write_lines

SUBJECTS = ("--subject", "base=fake:echo", "--subject", "policy=fake:polite")
JUDGE = ("--judge", "fake:brief")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    texts = ["Say a.", "Tell me how to bake bread at home in a small oven, step by step."]
    rows = [{"prompt": f"{texts[i % 2]} {i}", "category": "ab"[i % 2]} for i in range(12)]
    return write_lines(tmp_path / "prompts.jsonl", *rows)


def elo(capsys: Capture, output: Path, *arguments: object) -> Any:
    return run_command(capsys, "eval", "--only", "elo", "--output", output, *arguments)


def scores(output: Path) -> dict[tuple[str, str], Any]:
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    return {(row["metric"], row["subject"]): row for row in rows}


def test_subjects_are_rated_by_a_judge(capsys: Capture, tmp_path: Path, data: Path) -> None:
    """The judge likes short replies: base, an echo, wins on the short prompts."""
    out = tmp_path / "scores.jsonl"
    result = elo(capsys, out, *SUBJECTS, *JUDGE, "--data", data)
    assert result.code == 0, result.err
    rated = scores(out)
    assert rated["elo.rating", "base"]["mean"] == 0
    assert (
        rated["elo.win_rate.a", "policy"]["mean"] < 0.5 < rated["elo.win_rate.b", "policy"]["mean"]
    )
    assert rated["elo.rating", "policy"]["n"] == 12
    assert len((tmp_path / "scores.comparisons.jsonl").read_text().splitlines()) == 12
    assert len((tmp_path / "scores.replies-policy.jsonl").read_text().splitlines()) == 12


def test_a_subject_may_begin_with_turns(capsys: Capture, tmp_path: Path, data: Path) -> None:
    (tmp_path / "kind.txt").write_text("Be kind.\n")
    turns = ("--turns", f"policy={tmp_path / 'kind.txt'}")
    out = tmp_path / "scores.jsonl"
    assert elo(capsys, out, *SUBJECTS, *JUDGE, "--data", data, *turns).code == 0
    shots = write_lines(tmp_path / "shots.jsonl", {"role": "teacher", "content": "x"})
    other = ("--turns", f"base={shots}")
    wrong = elo(capsys, tmp_path / "x.jsonl", *SUBJECTS, *JUDGE, "--data", data, *other)
    assert "shots.jsonl:1: a turn has `role`" in wrong.usage_error
    changed = elo(capsys, out, *SUBJECTS, *JUDGE, "--data", data)
    assert changed.code == 2
    assert "made with another turns" in changed.err


def test_people_alone_and_people_beside_a_judge(
    capsys: Capture, tmp_path: Path, data: Path
) -> None:
    prompts = [json.loads(line)["prompt"] for line in data.read_text().splitlines()]
    verdicts = [
        {"prompt": text, "first": "policy", "second": "base", "verdict": word}
        for text, word in zip(prompts[:6], ["first", "second", "tie"] * 2, strict=True)
    ]
    verdicts.append({"prompt": "elsewhere", "first": "base", "second": "policy", "verdict": None})
    file = write_lines(tmp_path / "verdicts.jsonl", *verdicts)
    alone = tmp_path / "alone.jsonl"
    assert elo(capsys, alone, "--verdicts", file).code == 0
    rate = scores(alone)["elo.win_rate", "base"]
    assert (rate["mean"], rate["n"], rate["unscored"]) == (0.5, 6, 1)
    both = tmp_path / "both.jsonl"
    result = elo(capsys, both, *SUBJECTS, *JUDGE, "--data", data, "--verdicts", file)
    assert "1 of 7 verdicts left out" in result.err
    assert scores(both)["elo.corrected_win_rate", "policy"]["n"] == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give two or more --subject NAME=SPEC, or --verdicts FILE"),
        (("--subject", "base=fake:echo"), "nothing to be compared with"),
        (("--subject", "fake:echo"), "--subject fake:echo: write NAME=SPEC"),
        (SUBJECTS, "--subject needs --data and --judge"),
        (("--model", "fake:echo"), "name the models with --subject"),
        ((*SUBJECTS, *JUDGE, "--data", "x", "--turns", "me=x.txt"), "no --subject has this name"),
        ((*SUBJECTS, *JUDGE, "--data", "DATA", "--preset", "best"), "no such recipe; known: cai"),
    ],
)
def test_wrong_options(
    capsys: Capture, tmp_path: Path, data: Path, arguments: tuple[str, ...], message: str
) -> None:
    given = [str(data) if word == "DATA" else word for word in arguments]
    assert message in elo(capsys, tmp_path / "scores.jsonl", *given).usage_error


def test_elo_options_are_for_elo(capsys: Capture, tmp_path: Path, data: Path) -> None:
    options = ("--model", "fake:echo", "--data", data, "--output", tmp_path / "x.jsonl")
    result = run_command(capsys, "eval", "--only", "refusal", *options, *SUBJECTS)
    assert "--subject: the evaluation refusal has no such option" in result.usage_error


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"first": "a", "second": "b", "verdict": "A"}, "`verdict` must be first, second, tie"),
        ({"first": "a", "second": "a", "verdict": "tie"}, "must be names of two subjects"),
    ],
)
def test_wrong_verdicts(capsys: Capture, tmp_path: Path, row: Any, message: str) -> None:
    file = write_lines(tmp_path / "verdicts.jsonl", {"prompt": "x"} | row)
    error = elo(capsys, tmp_path / "scores.jsonl", "--verdicts", file).usage_error
    assert f"{file}:1: " in error
    assert message in error


def test_nothing_is_asked_twice(capsys: Capture, tmp_path: Path, data: Path) -> None:
    """An endpoint that counts requests; a file that lost its second half, as after a kill."""
    with endpoint(tmp_path) as server:
        spec = server.spec
        arguments = ("--subject", f"base={spec}", "--subject", "policy=fake:polite")
        judged = (*arguments, "--judge", spec, "--data", data, "--set", "http.connections=4")
        out = tmp_path / "scores.jsonl"
        assert elo(capsys, out, *judged).code == 0
        before, first = server.answered(), out.read_bytes()
        assert len(before) == 12 + 2 * 12
        comparisons = tmp_path / "scores.comparisons.jsonl"
        lines = comparisons.read_text().splitlines(keepends=True)
        comparisons.write_text("".join(lines[:5]) + lines[5][:20])
        out.unlink()
        assert elo(capsys, out, *judged).code == 0
        assert server.answered() == before
        assert out.read_bytes() == first
