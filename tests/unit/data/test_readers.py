"""Prompts from every file format, and the errors of wrong rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from data_toys import prompt

from cai.data.readers import prompt_rows
from cai.errors import StoreError
from cai.records import chat_of

ROWS = [
    {"prompt": "How are you?", "kind": "benign", "category": "talk"},
    {"prompt": 'Say "x",\nplease', "kind": "benign", "user": "ann"},
]


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
