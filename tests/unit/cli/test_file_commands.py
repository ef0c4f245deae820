"""The commands revise, label and eval as tools for a file.

Fields and order are kept, a kill loses nothing, and failed calls are nulls.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Capture, write_lines
from endpoint import endpoint

from cai.cli import main
from cai.records import EvalReply, Score
from cai.store import read_rows

PROMPTS = [
    {"id": f"mine {i}", "prompt": f"Do harm number {i}.", "kind": "disallowed", "extra": [i]}
    for i in range(7)
]
PAIRS: list[dict[str, Any]] = [
    {
        "chat": [{"role": "user", "content": f"Say {i}."}],
        "first": f"first {i}",
        "second": f"second {i}",
        "n": i,
    }
    for i in range(7)
]


def run(*arguments: object) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def loads(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def revise(
    source: object, output: object, *more: object, model: str = "fake:polite"
) -> int | str | None:
    options = ("--constitution", "harmless", "--model", model, "--input", source)
    return run("revise", *options, "--output", output, *more)


def label(
    source: object, output: object, *more: object, model: str = "fake:echo"
) -> int | str | None:
    options = ("--constitution", "harmless", "--model", model, "--input", source)
    return run("label", *options, "--output", output, *more)


def test_revise_keeps_fields_and_adds_some(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert revise(write_lines(tmp_path / "in.jsonl", *PROMPTS), out, "--rounds", 2) == 0
    rows = loads(out)
    assert [{k: row[k] for k in PROMPTS[0]} for row in rows] == PROMPTS
    for row in rows:
        assert len(row["rounds"]) == 2
        assert row["rounds"][0]["revision"] == "I'm sorry, but I can't help with that."
        assert row["initial"] == "I'm sorry, but I can't help with that."
        assert row["dropped"] is None or row["final"] is None


def test_revise_keeps_the_best_of_several(tmp_path: Path) -> None:
    """The fake says the same each time: the first of three is kept, and the row says so."""
    out = tmp_path / "out.jsonl"
    assert revise(write_lines(tmp_path / "in.jsonl", *PROMPTS), out, "--samples", 3) == 0
    for row in loads(out):
        (entry,) = row["rounds"]
        assert (entry["samples"], entry["sample"], entry["finished"]) == (3, 0, True)
    assert run("revise", "run.yaml", "--samples", 3) == 2


def test_label_of_an_even_judge_is_one_half(tmp_path: Path) -> None:
    """The fake prefers neither reply in either order: every label is exactly 0.5, with votes."""
    out = tmp_path / "out.jsonl"
    assert label(write_lines(tmp_path / "in.jsonl", *PAIRS), out, "--principles", 3) == 0
    rows = loads(out)
    assert [row["n"] for row in rows] == list(range(7))
    assert {row["p_first"] for row in rows} == {0.5}
    assert all(len(row["votes"]) == 3 and row["unscored"] is None for row in rows)


def test_equal_replies_are_unscored(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert label(write_lines(tmp_path / "in.jsonl", PAIRS[0] | {"second": "first 0"}), out) == 0
    [row] = loads(out)
    assert (row["p_first"], row["unscored"]) == (None, "the two replies are the same")


@pytest.mark.parametrize("tool", [revise, label])
def test_a_file_cut_short_is_resumed(tmp_path: Path, tool: Any) -> None:
    source = write_lines(tmp_path / "in.jsonl", *(PROMPTS if tool is revise else PAIRS))
    complete, cut = tmp_path / "complete.jsonl", tmp_path / "cut.jsonl"
    assert tool(source, complete) == 0
    data = complete.read_bytes()
    for size in (0, 1, len(data) // 2, len(data) - 1, len(data)):
        cut.write_bytes(data[:size])
        assert tool(source, cut) == 0
        assert cut.read_bytes() == data


def test_standard_input_and_output(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO("".join(json.dumps(row) + "\n" for row in PAIRS).encode()))
    monkeypatch.setattr("sys.stdin", stream)
    assert label("-", "-") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["n"] for row in rows] == list(range(7))


def test_an_endpoint_is_called_once_for_each_request(tmp_path: Path) -> None:
    """After the output is deleted, it is made again, to the byte, from the log beside it."""
    source, out = write_lines(tmp_path / "in.jsonl", *PAIRS), tmp_path / "out.jsonl"
    with endpoint(tmp_path / "server") as server:
        assert label(source, out, "--connections", 4, model=server.spec) == 0
        calls, first = len(server.answered()), out.read_bytes()
        out.unlink()
        assert label(source, out, model=server.spec) == 0
        assert len(server.answered()) == calls == 14
    assert out.read_bytes() == first
    assert all(row["p_first"] not in (None, 0.5) for row in loads(out))


def test_failed_calls_are_nulls_with_a_reason(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", *PAIRS), tmp_path / "out.jsonl"
    with endpoint(tmp_path / "server", always="400") as server:
        assert label(source, out, model=server.spec) == 0
    assert all(row["p_first"] is None and "status 400" in row["unscored"] for row in loads(out))


def test_eval_writes_scores_and_items(tmp_path: Path, capsys: Capture) -> None:
    """A model that always declines: harmful prompts right, harmless ones wrong."""
    kinds = ("disallowed", "benign")
    prompts = [{"prompt": f"{kind} {i}", "kind": kind} for kind in kinds for i in range(4)]
    data, out = write_lines(tmp_path / "data.jsonl", *prompts), tmp_path / "scores.jsonl"
    given = ["eval", "--only", "refusal", "--data", data, "--output", out, "--model"]
    assert run(*given, "fake:polite") == 0
    scores = {row.metric: row for row in read_rows(out, Score)}
    assert scores["refusal.incorrect_rate.disallowed"].mean == 0.0
    assert scores["refusal.refusal_rate.benign"].mean == 1.0
    assert len(list(read_rows(tmp_path / "scores.items.jsonl", EvalReply))) == 8
    assert "refusal.f1" in capsys.readouterr().out
    assert run(*given, "fake:echo") == 2
    assert "made with another model" in capsys.readouterr().err


def test_eval_of_an_endpoint_that_fails(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "data.jsonl", {"prompt": "a", "kind": "benign"})
    out = tmp_path / "scores.jsonl"
    with endpoint(tmp_path / "server", always="400") as server:
        options = ("--only", "refusal", "--data", data, "--output", out)
        assert run("eval", *options, "--model", server.spec) == 0
    for row in read_rows(out, Score):
        assert (row.mean, row.n, row.unscored) == (None, 0, 1), row.metric


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (
            ["revise", "--constitution", "harmless"],
            "give RUN.yaml, or --constitution, --model, --input, --output (missing: --model",
        ),
        (
            ["label", "run.yaml", "--model", "fake:echo"],
            "give a run's YAML or a file tool's options, not both",
        ),
        (
            ["eval", "--only", "mood", "--model", "fake:echo", "--data", "x", "--output", "y"],
            "no such evaluation; known: refusal",
        ),
        (["label"], "give RUN.yaml"),
        (
            ["revise", "run.yaml", "--direct"],
            "give a run's YAML or a file tool's options, not both",
        ),
    ],
)
def test_wrong_usage(capsys: Capture, arguments: list[str], why: str) -> None:
    assert run(*arguments) == 2
    assert why in capsys.readouterr().err


def test_wrong_lines(tmp_path: Path, capsys: Capture) -> None:
    source = write_lines(tmp_path / "in.jsonl", PAIRS[0], {"prompt": "a", "first": "b"})
    assert label(source, tmp_path / "out.jsonl") == 2
    assert f"{source}:2: a row needs `second` (text)" in capsys.readouterr().err


def test_limits_hold_for_files_too(tmp_path: Path, capsys: Capture) -> None:
    """A call takes 60 tokens. What was answered under a limit is not asked for again."""
    pairs = [PAIRS[0] | {"first": f"first {i}"} for i in range(40)]
    source, out = write_lines(tmp_path / "in.jsonl", *pairs), tmp_path / "out.jsonl"
    with endpoint(tmp_path / "server") as server:
        assert label(source, out, "--max-tokens", 1, model=server.spec) == 1
        assert "--max-tokens 1 is reached" in capsys.readouterr().err
        assert len(server.answered()) == 0
        limits = ("--max-tokens", 2000, "--connections", 4)
        assert label(source, out, *limits, model=server.spec) == 1
        assert "--max-tokens 2000 is reached" in capsys.readouterr().err
        assert 2 <= len(server.answered()) <= 2000 // 60
        assert label(source, out, model=server.spec) == 0
        assert len(server.answered()) == 80
    assert label(source, out, "--max-cost", 1) == 2
    assert "--max-cost needs prices" in capsys.readouterr().err
    assert label(source, out, "--set", "seed=1") == 2
    assert "only the sections http and prices can be set" in capsys.readouterr().err
