"""Prompts from every file format, and the errors of wrong rows."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from data_toys import prompt

from cai.data.readers import ReadOptions, prompt_rows
from cai.errors import StoreError
from cai.records import chat_of

ROWS = [
    {"prompt": "How are you?", "kind": "benign", "category": "talk"},
    {"prompt": 'Say "x",\nplease', "kind": "benign", "user": "ann"},
]


def turn(role: str, content: object, **others: object) -> dict[str, object]:
    return {"role": role, "content": content, **others}


def as_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, ["prompt", "kind", "category", "user", "note"])
        out.writeheader()
        out.writerows(ROWS)


def as_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def as_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{**dict.fromkeys(("category", "user", "note")), **row} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), path)


def as_folder(path: Path) -> None:
    import datasets

    rows = [{**dict.fromkeys(("category", "user")), **row} for row in ROWS]
    datasets.Dataset.from_list(rows).save_to_disk(str(path))


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.jsonl", as_jsonl), ("a.csv", as_csv), ("a.parquet", as_parquet), ("a", as_folder)],
)
def test_every_kind_of_file_holds_the_same_prompts(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name)
    assert list(prompt_rows(tmp_path / name)) == [
        prompt("How are you?", kind="benign", category="talk"),
        prompt('Say "x",\nplease', kind="benign", user="ann"),
    ]


def test_data_sets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loader of `datasets`, with a folder instead of a hub id.

    There is no network, so an unknown id is an error of one line.
    """
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    as_parquet(tmp_path / "set" / "train.parquet")
    as_parquet(tmp_path / "a.parquet")
    assert list(prompt_rows(Path(f"hub:{tmp_path}/set#train"))) == list(
        prompt_rows(tmp_path / "a.parquet")
    )
    with pytest.raises(StoreError, match=r"hub:.*/set#test: ValueError: Unknown split"):
        list(prompt_rows(Path(f"hub:{tmp_path}/set#test")))
    with pytest.raises(StoreError, match="hub:nobody/nothing#train: "):
        list(prompt_rows(Path("hub:nobody/nothing#train")))
    with pytest.raises(StoreError, match="name the data set and its split"):
        list(prompt_rows(Path("hub:nobody/nothing")))


def test_dialogues(tmp_path: Path) -> None:
    """All turns up to the last human one; the reply to it and the rejected dialogue are unused."""
    dialogue = (
        "\n\nHuman: Hi\n\nAssistant: Hello.\nWhat is it?"
        "\n\nHuman: Human: is a label\n\nAssistant: Yes."
    )
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"chosen": dialogue, "rejected": "x"}) + "\n", encoding="utf-8"
    )
    (row,) = prompt_rows(tmp_path / "a.jsonl")
    assert row.chat == chat_of(
        ("user", "Hi"), ("assistant", "Hello.\nWhat is it?"), ("user", "Human: is a label")
    )


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (
            {"chosen": "Assistant: I begin."},
            "a.jsonl:1: `chosen` must be a dialogue that begins with Human:",
        ),
        ({"chosen": 3}, "a.jsonl:1: `chosen` must be text, found int"),
        (
            {"messages": [turn("user", [{"type": "image_url"}])]},
            "a part that is not text (image_url)",
        ),
        ({"prompt": "a", "messages": [turn("user", "b")]}, "`prompt` and `messages` differ"),
        ({"Goal": "a"}, "its keys are Goal: `cai clean --column prompt=KEY`"),
        ({"promt": "a"}, "unknown key `promt`: did you mean `prompt`?"),
        ({"prompt": "a", "chat": []}, "a.jsonl:1: a row needs either"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "a.jsonl:1: chat.0.role"),
    ],
)
def test_wrong_rows(tmp_path: Path, row: dict[str, Any], why: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(StoreError) as error:
        list(prompt_rows(tmp_path / "a.jsonl"))
    assert why in str(error.value)


@pytest.mark.parametrize("name", ["none.csv", "none.parquet", "none.jsonl"])
def test_files_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match=name):
        list(prompt_rows(tmp_path / name))


QUESTION = "How do I boil an egg?"
REPLY = turn("assistant", "Eight minutes.")


@pytest.mark.parametrize(
    "row",
    [
        {"id": 7, "prompt": QUESTION},
        {"id": "q-1", "prompt": QUESTION, "source": "web", "label": 1},
        {"id": "0123456789abcdef", "prompt": QUESTION, "source": "web"},
        {"prompt": QUESTION, "kind": None, "category": "", "user": None, "chat": None},
        {"messages": [turn("user", QUESTION), REPLY]},
        {"messages": [turn("user", QUESTION, name=None, tool_calls=None)]},
        {"messages": [turn("user", [{"type": "text", "text": QUESTION}])]},
        {"messages": [turn("user", ["How do I ", {"type": "text", "text": "boil an egg?"}])]},
        {
            "messages": [
                turn("user", QUESTION),
                turn("assistant", None, tool_calls=[{"id": "c"}]),
                turn("tool", "8", tool_call_id="c"),
            ]
        },
        {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "8"}]},
        {"conversation": [turn("user", QUESTION), REPLY], "model": "m", "turn": 1},
        {"prompt": QUESTION, "chosen": "Eight minutes.", "rejected": "No."},
        {"prompt": [turn("user", QUESTION)], "chosen": [REPLY], "rejected": [REPLY]},
        {"chosen": [turn("user", QUESTION), REPLY], "rejected": [turn("user", QUESTION), REPLY]},
        {
            "prompt": QUESTION,
            "prompt_id": "77",
            "chosen": [turn("user", QUESTION), REPLY],
            "messages": [turn("user", QUESTION), REPLY],
            "score_chosen": 8.0,
        },
        {"prompt": QUESTION, "response_0": "a", "response_1": "b", "better_response_id": 0},
        {"prompt": QUESTION, "response": None, "prompt_harm_label": "unharmful"},
        {"prompt": QUESTION, "category": {"animal_abuse": False}, "is_safe": True},
        {"transcript": f"\n\nHuman: {QUESTION}\n\nAssistant: No.", "rating": 4.0},
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "json", "jsonl.gz", "parquet"])
def test_rows_of_public_data_sets(tmp_path: Path, row: dict[str, Any], form: str) -> None:
    """The same prompt from every layout, whatever the file."""
    path = tmp_path / f"a.{form}"
    line = json.dumps(row).encode() + b"\n"
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        if "0123" in str(row) or "['How" in str(row):
            pytest.skip("a table has one type a column")
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        data = {"jsonl": line, "json": b"[" + line + b"]", "jsonl.gz": gzip.compress(line)}
        path.write_bytes(data[form])
    assert list(prompt_rows(path)) == [prompt(QUESTION)]


def test_roles_of_other_formats(tmp_path: Path) -> None:
    turns = [turn("developer", "Short."), turn("human", "Hi"), turn("gpt", ""), turn("user", "So?")]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}), encoding="utf-8")
    (row,) = prompt_rows(tmp_path / "a.jsonl")
    assert row.chat == chat_of(
        ("system", "Short."), ("user", "Hi"), ("assistant", ""), ("user", "So?")
    )


def test_own_rows_are_checked_against_their_id(tmp_path: Path) -> None:
    own = prompt("Name a fish.", kind="benign")
    (tmp_path / "a.jsonl").write_text(own.line(), encoding="utf-8")
    assert list(prompt_rows(tmp_path / "a.jsonl")) == [own]
    (tmp_path / "a.jsonl").write_text(own.line().replace("fish", "bird"), encoding="utf-8")
    with pytest.raises(StoreError, match=r"a\.jsonl:1: .*edited by hand"):
        list(prompt_rows(tmp_path / "a.jsonl"))


def test_the_export_is_read_back(tmp_path: Path) -> None:
    from cai.data.writers import write_parquet
    from cai.integrations.export import PREFERENCE, PROMPT, SFT

    asked, reply = [turn("user", QUESTION)], [REPLY]
    tables: list[tuple[Any, dict[str, Any]]] = [
        (PROMPT, {"prompt": asked, "kind": None, "id": "0123456789abcdef"}),
        (SFT, {"prompt": asked, "completion": reply, "id": "0123456789abcdef"}),
        (PREFERENCE, {"prompt": asked, "chosen": reply, "rejected": reply, "id": "x"}),
    ]
    for columns, row in tables:
        write_parquet(tmp_path / "a.parquet", [row], columns)
        assert list(prompt_rows(tmp_path / "a.parquet")) == [prompt(QUESTION)]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_columns_of_other_names(tmp_path: Path, name: str) -> None:
    text = f"Goal,Class\n{QUESTION},x\n"
    if name == "a.jsonl":
        text = json.dumps({"Goal": QUESTION, "Class": "x", "messages": [REPLY]})
    (tmp_path / name).write_text(text, encoding="utf-8")
    options = ReadOptions(columns={"prompt": "Goal", "category": "Class", "user": "Who"})
    assert list(prompt_rows(tmp_path / name, options)) == [prompt(QUESTION, category="x")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "prompt, kind\nHello there, benign\n"),
        ("a.csv", "prompt;kind\nHello there;benign\n"),
        ("a.csv", "sep=;\nprompt;kind\nHello there;benign\n"),
        ("a.csv", "\ufeffprompt,kind,\n\nHello there,benign,\n"),
        ("a.CSV", "prompt,kind\nHello there,benign\n"),
        ("a.tsv", "kind\tprompt\nbenign\tHello there\n"),
    ],
)
def test_dialects_of_csv(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert list(prompt_rows(tmp_path / name)) == [prompt("Hello there", kind="benign")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("prompt\nHello, how are you\n", "a.csv:2: 2 cells, but the header names 1"),
        ("id,prompt\n1,Hi\n2,Hello, you\n", "a.csv:3: 3 cells, but the header names 2"),
        ('prompt,first,second\n"a, b",c\n', "a.csv:2: 2 cells, but the header names 3"),
        ('prompt\nHi\n"How do I?\nCats\n', "a.csv:3: unexpected end of data: a quotation mark"),
        ('prompt\n"Open\n"Closed"\n', "a.csv:2: .*a quotation mark"),
        ("prompt,prompt\na,b\n", "a.csv:1: several columns are named 'prompt'"),
    ],
)
def test_tables_that_would_be_cut_are_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(StoreError, match=why) as caught:
        list(prompt_rows(tmp_path / "a.csv"))
    assert "\n" not in str(caught.value)


def test_folders_of_shards(tmp_path: Path) -> None:
    for index, text in enumerate(("a", "b")):
        as_file = tmp_path / f"train-{index:05}-of-00002.csv"
        as_file.write_text(f"prompt\n{text}\n", encoding="utf-8")
    assert list(prompt_rows(tmp_path)) == [prompt("a"), prompt("b")]
    (tmp_path / "test-00000-of-00001.csv").write_text("prompt\nc\n", encoding="utf-8")
    with pytest.raises(StoreError, match=r"several splits .test, train.: name the files of one"):
        list(prompt_rows(tmp_path))


def test_wrong_rows_can_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,kind\na,benign\nb,c,d\n,benign\ne,odd\nf,\n")
    errors: list[StoreError] = []
    rows = list(prompt_rows(tmp_path / "a.csv", ReadOptions(skip=errors.append)))
    assert rows == [prompt("a", kind="benign"), prompt("f")]
    assert [str(error).split(":")[1] for error in errors] == ["3", "4", "5"]
