"""Selection of the report's examples by id."""

from __future__ import annotations

from report_toys import reply

from cai.records import Revision, chat_of
from cai.report.examples import first_replies, first_revisions


def test_examples_are_the_first_by_id_whatever_the_order_of_the_file() -> None:
    rows = [
        reply(f"p{i}", subject, kind)
        for i in (3, 1, 2, 0)
        for kind in ("benign", None)
        for subject in ("policy", "base")
    ]
    shown = first_replies(rows, 2)
    assert [(example.kind, example.replies[0].source) for example in shown] == [
        ("benign", "p0"),
        ("benign", "p1"),
        ("unknown kind", "p0"),
        ("unknown kind", "p1"),
    ]
    assert all([row.subject for row in example.replies] == ["base", "policy"] for example in shown)
    assert first_replies(rows[::-1], 2) == shown


def test_the_lowest_draw_is_shown() -> None:
    rows = [
        reply("p", "base", draw=2, response="c"),
        reply("p", "base", draw=0, response="a"),
        reply("p", "base", draw=1, response="b"),
    ]
    assert [row.response for row in first_replies(rows, 1)[0].replies] == ["a"]


def test_revisions_are_grouped_by_the_kind_of_their_prompt() -> None:
    rows = [
        Revision(source=f"s{i}", chat=chat_of(("user", "ask")), initial=str(i), final=str(i))
        for i in range(6)
    ]
    shown = first_revisions(rows, {"s0": "benign", "s1": "disallowed", "s2": None}, 2)
    assert [example.kind for example in shown] == [
        "disallowed",
        "benign",
        "unknown kind",
        "unknown kind",
    ]
    assert [example.row for example in shown[2:]] == sorted(rows[2:], key=lambda row: row.id)[:2]
