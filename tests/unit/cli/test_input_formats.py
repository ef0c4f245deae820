"""Rows of well-known data sets, in every file format, as input of the file tools.

All rows are written for this test, in the columns of those data sets.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Capture, CommandResult, run_command

from cai.cli.columns import column_names
from cai.cli.jsonl import read_replies
from cai.data.preferences import EQUAL_REPLIES, labelled_pairs
from cai.data.reply_pairs import PairOptions

Row = dict[str, Any]
QUESTION, REPLY = "Name a fish; any will do.", "Cod, and\nthat is it."
ASK = {"role": "user", "content": QUESTION}
TELL = {"role": "assistant", "content": REPLY}
SHAREGPT = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": REPLY}]
PARTS_ASK = [{"type": "text", "text": QUESTION}]
PARTS_TELL = [{"type": "text", "text": REPLY[:6]}, {"type": "text", "text": REPLY[6:]}]
PROMPTS: dict[str, tuple[Row, list[str]]] = {
    "plain": ({"prompt": QUESTION, "kind": "benign"}, []),
    "TRL messages": ({"messages": [ASK, TELL], "source": "x"}, []),
    "ShareGPT": ({"id": "a_0", "conversations": SHAREGPT}, []),
    "LMSYS": ({"conversation_id": "f", "model": "m", "conversation": [ASK, TELL], "turn": 1}, []),
    "hh-rlhf": ({"chosen": f"\n\nHuman: {QUESTION}\n\nAssistant: {REPLY}", "rejected": "x"}, []),
    "AdvBench": ({"goal": QUESTION, "target": "Sure"}, ["--column", "prompt=goal"]),
    "HarmBench": (
        {"Behavior": QUESTION, "SemanticCategory": "x", "BehaviorID": "y"},
        ["--column", "prompt=Behavior"],
    ),
    "WildGuard": ({"prompt": QUESTION, "adversarial": False, "subcategory": "benign"}, []),
    "own export": ({"prompt": [ASK], "kind": "benign", "id": "0123456789abcdef"}, []),
}
REPLIES: dict[str, tuple[Row, list[str]]] = {
    "plain": ({"prompt": QUESTION, "response": REPLY, "kind": "benign"}, []),
    "WildGuard": (
        {"prompt": QUESTION, "response": REPLY, "response_harm_label": "unharmful"},
        [],
    ),
    "BeaverTails": (
        {"prompt": QUESTION, "response": REPLY, "category": {"violence": False}, "is_safe": True},
        [],
    ),
    "TRL messages": ({"messages": [ASK, TELL]}, []),
    "ShareGPT": ({"conversations": SHAREGPT}, []),
    "own export": ({"prompt": [ASK], "completion": [TELL], "id": "x"}, []),
    "parts": ({"prompt": PARTS_ASK, "response": PARTS_TELL, "kind": "benign"}, []),
    "turns of parts": (
        {"messages": [ASK | {"content": PARTS_ASK}, TELL | {"content": PARTS_TELL}]},
        [],
    ),
    "a turn": ({"prompt": QUESTION, "response": TELL}, []),
    "others' names": (
        {"question": QUESTION, "answer": REPLY},
        ["--column", "prompt=question", "--column", "response=answer"],
    ),
}
PKU: Row = {
    "prompt": QUESTION,
    "response_0": "No.",
    "response_1": REPLY,
    "is_response_0_safe": True,
    "better_response_id": 1,
}
PAIRS: dict[str, tuple[Row, list[str]]] = {
    "plain": ({"prompt": QUESTION, "first": REPLY, "second": "No."}, []),
    "PKU-SafeRLHF": (PKU | {"safer_response_id": 0}, []),
    "hh-rlhf": (
        {
            "chosen": f"\n\nHuman: {QUESTION}\n\nAssistant: {REPLY}",
            "rejected": f"\n\nHuman: {QUESTION}\n\nAssistant: No.",
        },
        [],
    ),
    "TRL": ({"prompt": QUESTION, "chosen": REPLY, "rejected": "No."}, []),
    "parts": (
        {
            "prompt": PARTS_ASK,
            "first": PARTS_TELL,
            "second": {"role": "assistant", "content": "No."},
        },
        [],
    ),
    "chosen parts": (
        {
            "prompt": QUESTION,
            "chosen": PARTS_TELL,
            "rejected": [{"type": "text", "text": "No."}],
        },
        [],
    ),
    "UltraFeedback": (
        {
            "prompt": QUESTION,
            "chosen": [ASK, TELL],
            "rejected": [ASK, {"role": "assistant", "content": "No."}],
            "messages": [ASK, TELL],
            "score_chosen": 8.5,
        },
        [],
    ),
    "own export": (
        {
            "prompt": [ASK],
            "chosen": [TELL],
            "rejected": [{"role": "assistant", "content": "No."}],
            "p_chosen": 0.75,
        },
        [],
    ),
    "others' names": (
        {"question": QUESTION, "a": REPLY, "b": "No."},
        ["--column", "prompt=question", "--column", "first=a", "--column", "second=b"],
    ),
}
FORMATS = ["jsonl", "json", "jsonl.gz", "jsonl.zst", "csv", "parquet"]


def write(folder: Path, form: str, *rows: Row) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"in.{form}"
    text = "".join(json.dumps(row, default=repr) + "\n" for row in rows)
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif form == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, list(rows[0]))
            out.writeheader()
            cells = (
                {k: v if isinstance(v, str) else json.dumps(v) for k, v in r.items()} for r in rows
            )
            out.writerows(cells)
    elif form == "json":
        path.write_text(json.dumps(list(rows), indent=1), encoding="utf-8")
    elif form == "jsonl.gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif form == "jsonl.zst":
        path.write_bytes(pa.compress(text.encode(), codec="zstd", asbytes=True))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def run_tool(capsys: Capture, command: str, source: Path, *more: str) -> CommandResult:
    output = source.parent / "out.jsonl"
    options = ["--constitution", "harmless", "--input", source, "--output", output]
    if command != "grade":
        options += ["--model", "fake:brief"]
    return run_command(capsys, command, *options, *more)


def cases(rows: dict[str, tuple[Row, list[str]]]) -> list[Any]:
    """Every shape in JSONL, CSV and Parquet, and one shape in all formats."""
    return [
        pytest.param(form, *rows[name], id=f"{name} {form}")
        for name in rows
        for form in (FORMATS if name == "plain" else ["jsonl", "csv", "parquet"])
    ]


def output_row(result: CommandResult, folder: Path) -> Row:
    assert result.code == 0, result.err
    (line,) = (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()
    row: Row = json.loads(line)
    return row


@pytest.mark.parametrize(("form", "row", "more"), cases(PROMPTS))
def test_revise(capsys: Capture, tmp_path: Path, form: str, row: Row, more: list[str]) -> None:
    revised = output_row(run_tool(capsys, "revise", write(tmp_path, form, row), *more), tmp_path)
    assert revised["initial"]
    assert row.keys() <= revised.keys()


@pytest.mark.parametrize(("form", "row", "more"), cases(REPLIES))
def test_grade(capsys: Capture, tmp_path: Path, form: str, row: Row, more: list[str]) -> None:
    source = write(tmp_path, form, row)
    graded = output_row(run_tool(capsys, "grade", source, *more), tmp_path)
    assert graded["degree"] == "full_compliance"
    assert row.keys() <= graded.keys()


@pytest.mark.parametrize(("form", "row", "more"), cases(PAIRS))
def test_label_and_its_report(
    capsys: Capture, tmp_path: Path, form: str, row: Row, more: list[str]
) -> None:
    """The judge `brief` prefers "No.", which people did not."""
    source = write(tmp_path, form, row)
    labelled = output_row(run_tool(capsys, "label", source, *more), tmp_path)
    assert (labelled["p_first"] > 0.5) == (row.get("response_0") == "No.")
    choice = ["--choice", "better_response_id"] if "response_0" in row else []
    report = run_command(capsys, "label", "--report", tmp_path / "out.jsonl", *choice)
    assert report.code == 0, report.err
    has_choice = not {"chosen", "response_0"}.isdisjoint(row)
    assert ("agreement with people" in report.out) == has_choice


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "name", [name for name in PAIRS if name not in ("plain", "parts", "others' names")]
)
def test_preferences_of_others(tmp_path: Path, name: str, form: str) -> None:
    path = write(tmp_path, form, PAIRS[name][0])
    (pair,) = labelled_pairs(path, options=PairOptions(choice="better_response_id"))
    is_pku = name == "PKU-SafeRLHF"
    assert {pair.first, pair.second} == {"No.", REPLY}
    assert pair.prompt.chat[0].content == QUESTION
    assert pair.p_first == (0.0 if is_pku else 0.75 if name == "own export" else 1.0)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", REPLIES)
def test_the_reply_is_a_text(tmp_path: Path, name: str, form: str) -> None:
    """Its parts are joined, whatever the format."""
    row, more = REPLIES[name]
    columns = column_names(more[1::2], ("response",))
    (line,) = read_replies(write(tmp_path, form, row), columns)
    assert line.replies == (REPLY,)
    assert line.prompt.chat[-1].content == QUESTION


def test_a_reply_under_another_name(capsys: Capture, tmp_path: Path) -> None:
    source = write(tmp_path, "jsonl", {"prompt": "a", "answer": "b"})
    error = run_tool(capsys, "grade", source).usage_error
    assert error.endswith("of the assistant: name its key, as in --column response=answer")
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    source = write(tmp_path, "jsonl", {"prompt": "a", "response": image})
    error = run_tool(capsys, "grade", source).usage_error
    assert error.endswith(":1: a turn has a part that is not text (image_url)")


def test_two_choices_need_a_name(capsys: Capture, tmp_path: Path, tiny_model: Path) -> None:
    source = write(tmp_path, "jsonl", PKU | {"safer_response_id": 0})
    options = ["--model", f"local:{tiny_model}", "--input", source, "--output", tmp_path / "out"]
    error = run_command(capsys, "fit-reward", *options).usage_error
    assert error.startswith(f"{source}:1: both `better_response_id` and `safer_response_id`")
    (pair,) = labelled_pairs(source, options=PairOptions(choice="safer_response_id"))
    assert pair.p_first == 1.0


def test_equal_replies_are_no_disagreement(capsys: Capture, tmp_path: Path) -> None:
    same = {"response_0": "a", "response_1": "a"}
    skipped = Counter[str]()
    assert not list(labelled_pairs(write(tmp_path, "jsonl", PKU | same), passed_over=skipped))
    assert skipped == {EQUAL_REPLIES: 1}
    rows = [{"prompt": "a", "chosen": "b", "rejected": c, "p_first": 0.9} for c in "bc"]
    report = run_command(capsys, "label", "--report", write(tmp_path, "jsonl", *rows))
    assert report.code == 0, report.err
    assert "n=1" in next(x for x in report.out.splitlines() if "agreement with people" in x)


def test_values_that_only_tables_have(capsys: Capture, tmp_path: Path) -> None:
    row = {
        "prompt": "a",
        "response": "",
        "day": date(2026, 1, 2),
        "price": Decimal("1.5"),
        "unknown": float("nan"),
    }
    graded = output_row(run_tool(capsys, "grade", write(tmp_path, "parquet", row)), tmp_path)
    assert (graded["day"], graded["price"], graded["unknown"]) == ("2026-01-02", 1.5, None)
    binary = write(tmp_path, "parquet", {"prompt": "a", "response": "b", "image": b"\0"})
    (tmp_path / "out.jsonl").unlink()
    error = run_tool(capsys, "grade", binary).usage_error
    assert error.endswith("`image`: JSON has no values of type bytes: leave this column out")


@pytest.mark.parametrize(
    ("form", "row", "message"),
    [
        ("jsonl", {"prompt": "a", "response": "b", "x": float("nan")}, ":1: `x`: nan is not JSON"),
        ("csv", {"goal": "a", "response": "b"}, "its keys are goal, response: `cai clean --column"),
        ("csv", {"messages": "hello", "response": "b"}, "conversations are read from JSONL and"),
        ("jsonl", {"prompt": "a", "response": None}, ":1: a line needs `response` (text)"),
        ("jsonl", {"messages": [ASK, TELL], "response": "b"}, "leave one of them out"),
    ],
)
def test_what_cannot_work_is_one_line(
    capsys: Capture, tmp_path: Path, form: str, row: Row, message: str
) -> None:
    assert message in run_tool(capsys, "grade", write(tmp_path, form, row)).usage_error


def test_a_reply_may_be_empty_in_a_csv_file(capsys: Capture, tmp_path: Path) -> None:
    row = {"prompt": "a", "response": ""}
    assert output_row(run_tool(capsys, "grade", write(tmp_path, "csv", row)), tmp_path)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.jsonl.gz"])
def test_the_output_is_jsonl(capsys: Capture, tmp_path: Path, name: str) -> None:
    source = write(tmp_path, "jsonl", {"prompt": "a", "response": "b"})
    options = ["--constitution", "harmless", "--input", source, "--output", tmp_path / name]
    error = run_command(capsys, "grade", *options).usage_error
    assert error.endswith("written as JSONL only: end the name with .jsonl")


def test_a_csv_file_cut_short_is_resumed(capsys: Capture, tmp_path: Path) -> None:
    rows = [{"prompt": f"p {i}", "response": "b", "n": i} for i in range(3)]
    source, out = write(tmp_path, "csv", *rows), tmp_path / "out.jsonl"
    assert run_tool(capsys, "grade", source).code == 0
    complete = out.read_bytes()
    out.write_bytes(complete[: len(complete) // 2])
    assert run_tool(capsys, "grade", source).code == 0
    assert out.read_bytes() == complete


def test_an_evaluation_without_kinds_says_so(capsys: Capture, tmp_path: Path) -> None:
    data = write(tmp_path, "csv", {"goal": "a"})
    options = ["--only", "refusal", "--model", "fake:polite", "--data", data]
    options += ["--column", "prompt=goal", "--output", tmp_path / "scores.jsonl"]
    result = run_command(capsys, "eval", *options)
    assert result.code == 0
    assert f"{data}: 1 of 1 prompts have no `kind`" in result.err
