"""Labelled pairs from files: both formats, overlap with the evaluation, wrong rows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from json_lines import write_lines

from cai.data.filters import HygieneConfig
from cai.data.preferences import (
    DIFFERENT_PROMPTS,
    EQUAL_REPLIES,
    NO_VERDICT,
    clean_labelled_pairs,
    labelled_pairs,
)
from cai.errors import StoreError
from cai.records import chat_of

DIALOGUE = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: and now?\n\nAssistant: "


def test_both_shapes_are_read(tmp_path: Path) -> None:
    votes = [
        {"principle": "kind", "p_first": 0.9},
        {"principle": "brief", "p_first": None},
        {"principle": "true", "p_first": 0.2},
    ]
    file = write_lines(
        tmp_path / "x.jsonl",
        {"prompt": "q", "first": "a", "second": "b", "p_first": 0.7, "votes": votes, "who": 3},
        {"prompt": "q", "first": "a", "second": "b", "p_first": None, "votes": [], "who": 4},
    )
    assert [(r.first, r.second, r.p_first, r.group) for r in labelled_pairs(file)] == [
        ("a", "b", 0.7, None)
    ]
    assert [r.group for r in labelled_pairs(file, "who")] == ["3"]
    assert [(r.p_first, r.group) for r in labelled_pairs(file, "principle")] == [
        (0.9, "kind"),
        (0.2, "true"),
    ]
    skipped: Counter[str] = Counter()
    list(labelled_pairs(file, passed_over=skipped))
    assert skipped == {NO_VERDICT: 1}
    parted = {"chosen": DIALOGUE, "rejected": "\n\nHuman: yo\n\nAssistant: x"}
    dialogues = write_lines(
        tmp_path / "y.jsonl", parted, {"chosen": DIALOGUE + "fine", "rejected": DIALOGUE + " no"}
    )
    [row] = labelled_pairs(dialogues, passed_over=skipped)
    assert skipped["`chosen` and `rejected` are about different conversations"] == 1
    assert row.number == 2
    assert (row.first, row.second, row.p_first) == ("fine", "no", 1.0)
    assert row.prompt.chat == chat_of(("user", "hi"), ("assistant", "hello"), ("user", "and now?"))


def test_what_is_held_out_is_not_learnt_from(tmp_path: Path) -> None:
    """Dropped: a prompt of the evaluation, in any context, and a reply that contains one.

    An equal system turn alone is no reason. Addresses are masked in both replies.
    """
    system = {
        "role": "system",
        "content": "You are a kind assistant who answers all questions in plain English.",
    }
    hello = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hi"}]
    rivers = [system, {"role": "user", "content": "Name nine rivers of the world, in order."}]
    held_out = write_lines(
        tmp_path / "held.jsonl", {"prompt": "Why is the sky blue?"}, {"chat": rivers}
    )
    file = write_lines(
        tmp_path / "x.jsonl",
        {"prompt": "why is the sky BLUE", "first": "a", "second": "b", "p_first": 1},
        {
            "chat": [system, *hello, {"role": "user", "content": "Why is the sky blue?"}],
            "first": "a",
            "second": "b",
            "p_first": 1,
        },
        {
            "prompt": "q",
            "first": "He said: name nine rivers of the world in order!",
            "second": "b",
            "p_first": 1,
        },
        {
            "chat": [system, {"role": "user", "content": "q"}],
            "first": "write to ann@example.org",
            "second": "or to bob@example.org",
            "p_first": 0.2,
        },
    )
    kept_rows, reasons = clean_labelled_pairs(
        labelled_pairs(file), HygieneConfig(pii="mask"), [held_out]
    )
    assert reasons == {"in an evaluation": 3}
    assert [(row.p_first, "ann@" in row.first, "bob@" in row.second) for row in kept_rows] == [
        (0.2, False, False)
    ]
    assert kept_rows[0].first.startswith("write to")
    assert kept_rows[0].second.startswith("or to")


@pytest.mark.parametrize(
    ("row", "by", "message"),
    [
        ({"prompt": "q", "first": "a", "p_first": 1}, None, "needs `second`"),
        (
            {"prompt": "q", "first": "a", "second": "b", "p_first": 1.5},
            None,
            "`p_first` must be a probability or null, found 1.5",
        ),
        (
            {"prompt": "q", "first": "a", "second": "b", "p_first": True},
            None,
            "must be a probability or null, found True",
        ),
        ({"prompt": "q", "first": "a", "second": "b", "p_first": 1}, "who", "needs `who`"),
        ({"prompt": "q", "first": "a", "second": "b", "p_first": 1}, "principle", "needs `votes`"),
        ({"chosen": DIALOGUE, "rejected": "no dialogue"}, None, "`rejected` must be a dialogue"),
        (
            dict.fromkeys(("chosen", "rejected"), "\n\nHuman: \n\nAssistant: Hi"),
            None,
            "chat must end with a non-empty user turn",
        ),
    ],
)
def test_wrong_rows_are_named(
    row: dict[str, object], by: str | None, message: str, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "x.jsonl", row)
    with pytest.raises(StoreError, match=message) as caught:
        list(labelled_pairs(file, by))
    assert str(caught.value).startswith(f"{file}:1: ")


ASKED = [{"role": "user", "content": "Name a fish."}]


def answered(text: str) -> list[dict[str, str]]:
    return [*ASKED, {"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("row", "p_first"),
    [
        ({"prompt": "Name a fish.", "chosen": "Cod.", "rejected": "No."}, 1.0),
        ({"prompt": ASKED, "chosen": answered("Cod.")[1:], "rejected": answered("No.")[1:]}, 1.0),
        ({"chosen": answered("Cod."), "rejected": answered("No.")}, 1.0),
        (
            {
                "prompt": "Name a fish.",
                "chosen": answered("Cod."),
                "rejected": answered("No."),
                "messages": answered("Cod."),
                "score_chosen": 8.0,
            },
            1.0,
        ),
        (
            {
                "prompt": ASKED,
                "chosen": answered("Cod.")[1:],
                "rejected": answered("No.")[1:],
                "p_chosen": 0.75,
                "margin": 1.1,
                "id": "0123456789abcdef",
            },
            0.75,
        ),
    ],
    ids=["TRL text", "TRL turns", "TRL implicit prompt", "UltraFeedback", "own export"],
)
@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_layouts_of_chosen_and_rejected(
    tmp_path: Path, row: dict[str, Any], p_first: float, form: str
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / f"a.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_text(json.dumps([row] if form == "json" else row), encoding="utf-8")
    (pair,) = labelled_pairs(path)
    assert pair.prompt.chat == chat_of(("user", "Name a fish."))
    assert (pair.first, pair.second, pair.p_first) == ("Cod.", "No.", p_first)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, EQUAL_REPLIES),
        ({"chosen": answered("b"), "rejected": answered("b")}, EQUAL_REPLIES),
        (
            {"chosen": answered("b"), "rejected": [*answered("x"), *answered("y")]},
            DIFFERENT_PROMPTS,
        ),
    ],
)
def test_rows_without_a_comparison_are_counted(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    skipped = Counter[str]()
    assert not list(labelled_pairs(tmp_path / "a.jsonl", passed_over=skipped))
    assert skipped == {reason: 1}


@pytest.mark.parametrize("chosen", [ASKED, [], 3, [3]])
def test_chosen_without_a_reply_is_an_error(tmp_path: Path, chosen: object) -> None:
    row = {"prompt": "a", "chosen": chosen, "rejected": "b"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(StoreError, match=r"a\.jsonl:1: `chosen` must be a reply"):
        list(labelled_pairs(tmp_path / "a.jsonl"))
