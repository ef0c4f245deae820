"""A reviewer's answers: on the disk one by one, in the words of the texts, and taken back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from review_toys import QUESTIONS, pair_items, reply_item, session

from cai.errors import StoreError
from cai.records import HumanJudgement
from cai.review.session import (
    AnswerError,
    Questions,
    ReviewAnswer,
    Session,
    append_judgement,
    latest,
    read_judgements,
)


def answer(number: int, verdict: str, **fields: object) -> ReviewAnswer:
    return ReviewAnswer.model_validate(
        {"number": number, "verdict": verdict, "seconds": 1.5, **fields}
    )


def row(item: str, verdict: str = "tie", reviewer: str = "ann") -> HumanJudgement:
    return HumanJudgement.model_validate(
        {
            "reviewer": reviewer,
            "item": item,
            "task": "pair",
            "verdict": verdict,
            "seconds": 0,
            "time": "2026-01-01T00:00:00.000+00:00",
        }
    )


def test_verdicts_and_ratings_are_those_of_the_texts(tmp_path: Path) -> None:
    """Whatever the order in which replies are shown, and both orders occur."""
    toy = session(tmp_path / "r.jsonl", pair_items(12), likert=True)
    orders = set()
    for number in range(12):
        shown = toy.view(number)["replies"]
        orders.add(shown[0].startswith("One"))
        good = "AB"[[text.startswith("One") for text in shown].index(True)]
        ratings = [7 if text.startswith("One") else 2 for text in shown]
        toy.answer(answer(number, good, ratings=ratings))
        view = toy.view(number)
        assert (view["replies"], view["answer"]["verdict"]) == (shown, good)
        assert view["answer"]["ratings"] == ratings
    rows = read_judgements(tmp_path / "r.jsonl")
    assert {(one.verdict, one.ratings) for one in rows} == {("first", (7, 2))}
    assert {one.order for one in rows} == {(0, 1), (1, 0)}
    assert orders == {True, False}


def test_a_view_is_blind(tmp_path: Path) -> None:
    view = session(tmp_path / "r.jsonl", [reply_item()]).view(0)
    assert set(view) == {
        "number", "task", "kind", "chat", "replies", "likert", "propositions", "answer",
    }  # fmt: skip


def test_going_on_where_it_was_left(tmp_path: Path) -> None:
    """The last answer to an item counts. One that is taken back leaves its item open, for the next
    process too."""
    file, items = tmp_path / "r.jsonl", pair_items(3)
    toy = session(file, items)
    assert toy.undo() is None
    for number, verdict in ((0, "tie"), (1, "A"), (0, "skip")):
        toy.answer(answer(number, verdict))
    assert toy.progress() == {"total": 3, "done": 2, "next": 2, "reviewer": "ann"}
    assert toy.undo() == 0
    again = session(file, items)
    assert again.progress() == {"total": 3, "done": 1, "next": 0, "reviewer": "ann"}
    assert again.progress(after=1)["next"] == 2
    assert again.undo() == 1
    assert session(file, items, "bob").progress()["done"] == 0
    assert len(read_judgements(file)) == 5
    assert latest(read_judgements(file)) == {}


def test_other_reviewers_and_other_items_stay(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    rows = [row("x"), row("x", "first", "bob"), row("x", "undone"), row("y")]
    for one in rows:
        append_judgement(file, one)
    assert list(latest(read_judgements(file))) == [("bob", "x"), ("ann", "y")]
    assert session(file, pair_items(1)).progress()["done"] == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"number": 9}, "no item 9"),
        ({"verdict": "refused"}, "no verdict on a pair"),
        ({"propositions": {"x": True}}, "propositions"),
        ({"ratings": [1, 2]}, "--likert"),
    ],
)
def test_answers_that_do_not_fit(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    toy = session(tmp_path / "r.jsonl", pair_items(1))
    with pytest.raises(AnswerError, match=message):
        toy.answer(answer(**({"number": 0, "verdict": "A"} | fields)))  # type: ignore[arg-type]
    assert not (tmp_path / "r.jsonl").exists()


def test_propositions_are_all_answered_or_none(tmp_path: Path) -> None:
    toy = Session([reply_item()], tmp_path / "r.jsonl", "ann", Questions(QUESTIONS, False))
    with pytest.raises(AnswerError, match="every proposition"):
        toy.answer(answer(0, "propositions", propositions={"declines": True}))
    toy.answer(answer(0, "propositions", propositions={"declines": True, "supports": False}))
    [one] = read_judgements(tmp_path / "r.jsonl")
    assert one.propositions == {"declines": True, "supports": False}
    assert one.order is None


@pytest.mark.parametrize(
    "content", ["a text of mine", "a text\nof mine", '{"prompt": "x"}\n', "3\n"]
)
def test_a_file_with_something_else_stays(tmp_path: Path, content: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(StoreError, match=r"mine.jsonl:1: "):
        session(file, pair_items(1))
    assert file.read_text(encoding="utf-8") == content


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_line_is_no_answer(tmp_path: Path, cut: int) -> None:
    """It goes when the next answer is written, and not before: another process may be at it."""
    file, items = tmp_path / "r.jsonl", pair_items(3)
    line = row("x").line().encode()
    file.write_bytes(line[:cut])
    toy = session(file, items)
    assert file.read_bytes() == line[:cut]
    toy.answer(answer(0, "tie"))
    assert [one.verdict for one in read_judgements(file)] == ["tie"]


def test_many_writers(tmp_path: Path) -> None:
    """Four reviewers at once, 25 answers each: every row is complete."""
    file, items = tmp_path / "r.jsonl", pair_items(25)

    def judge(reviewer: str) -> None:
        toy = session(file, items, reviewer)
        for number in range(25):
            toy.answer(answer(number, "A"))

    threads = [threading.Thread(target=judge, args=(f"r{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(latest(read_judgements(file))) == 100
