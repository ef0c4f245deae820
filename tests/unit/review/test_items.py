"""Items: what there is to judge, in which order, and by which name."""

from __future__ import annotations

from pathlib import Path

import pytest
from json_lines import write_lines
from report_toys import reply
from review_toys import pair, preference

from cai.errors import StoreError
from cai.review.items import (
    Item,
    all_subject_pairs,
    at_random,
    doubtful_first,
    read_pairs,
    reply_items,
    subject_pairs,
)
from cai.store import append_rows


def test_pairs_of_a_run(tmp_path: Path) -> None:
    """The least certain label comes first; 0.9 by votes of 0.9 and 0.9 is surer than 0.8 by votes
    on both sides; a pair without a label comes last."""
    rows = [pair(number) for number in range(4)]
    append_rows(tmp_path / "pairs.jsonl", rows)
    labels = [preference(rows[0], 0.9, 0.9), preference(rows[1], 0.5), preference(rows[2], 1, 0.2)]
    append_rows(tmp_path / "labels.jsonl", labels)
    items = read_pairs(tmp_path / "pairs.jsonl", tmp_path / "labels.jsonl")
    order = [item.replies[0] for item in doubtful_first(items)]
    assert order[2:] == ["One 0.", "One 3."]
    assert items[1].doubt == items[2].doubt == 1
    assert items[0].doubt == pytest.approx(0.2)
    assert items[3].doubt is None


def test_labels_of_other_pairs_are_refused(tmp_path: Path) -> None:
    append_rows(tmp_path / "pairs.jsonl", [pair(1)])
    append_rows(tmp_path / "labels.jsonl", [preference(pair(2), 0.9)])
    with pytest.raises(StoreError, match=r"labels.jsonl: no label of a pair in .*pairs.jsonl"):
        read_pairs(tmp_path / "pairs.jsonl", tmp_path / "labels.jsonl")


def test_pairs_of_other_shapes(tmp_path: Path) -> None:
    """Labels in the rows themselves; equal replies and rows without replies are no pairs."""
    file = tmp_path / "pairs.jsonl"
    write_lines(
        file,
        {"prompt": "a?", "first": "x", "second": "y", "p_first": 0.7},
        {"prompt": "a?", "first": "x", "second": "y", "p_first": 0.9},
        {"prompt": "b?", "chosen": "x", "rejected": "y"},
        {"prompt": "c?", "first": "same", "second": "same "},
        {"prompt": "d?", "first": "", "second": "", "unscored": "no answer: status 500"},
    )
    items = read_pairs(file, None)
    assert [(item.chat[-1].content, item.p_first) for item in items] == [("a?", 0.7), ("b?", 1.0)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a?"}, "shapes of pairs"),
        ({"prompt": "a?", "first": "x", "second": "y", "p_first": 2}, "p_first"),
        ({"prompt": "a?", "first": "x", "second": "y", "p_first": 1, "votes": [{}]}, "votes"),
        ({"prompt": "a?", "first": "x\ud800", "second": "y"}, "half a character"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    write_lines(tmp_path / "pairs.jsonl", row)
    with pytest.raises(StoreError, match=rf"pairs.jsonl:1: .*{message}"):
        read_pairs(tmp_path / "pairs.jsonl", None)


def test_replies_once_and_doubtful_first() -> None:
    """The same text of two models is one item. A reply that the rubric calls correct and the
    preference model bad is doubtful."""
    rows = [
        reply("a", "base", response="Sure."),
        reply("a", "sft", response="Sure."),
        reply("b", "sft", response="Yes.", reward=-1.0),
        reply("c", "sft", response="Hm.", correct=None, unscored="no answer"),
        reply("d", "sft", response=" "),
    ]
    items = doubtful_first(reply_items(rows))
    assert [item.replies for item in items] == [("Yes.",), ("Sure.",), ("Hm.",)]
    assert items[1].subjects_of(0) == ("base", "sft")


def test_pairs_of_subjects() -> None:
    rows = [
        reply("a", "sft", response="x"),
        reply("a", "policy", response="y"),
        reply("b", "sft", response="same"),
        reply("b", "policy", response="same"),
        reply("c", "sft", response="x"),
    ]
    [item] = subject_pairs(rows, "sft", "policy")
    assert (item.replies, item.subjects, item.p_first) == (("x", "y"), ("sft", "policy"), None)
    assert len(all_subject_pairs(rows)) == 2


def test_an_item_is_named_by_its_texts() -> None:
    """What a machine says of them, and who wrote them, changes no name; their order does."""
    rows = subject_pairs(
        [reply("a", "sft", response="x"), reply("a", "policy", response="y")], "sft", "policy"
    )
    item = rows[0]
    same = Item(task="pair", chat=item.chat, replies=item.replies, kind=item.kind, p_first=0.3)
    other = Item(task="pair", chat=item.chat, replies=("y", "x"), kind=item.kind)
    assert item.id == same.id != other.id
    assert [one.id for one in at_random([item, other])] == sorted([item.id, other.id])
