"""Rows: round trips through a line, ids, and content that is not accepted."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cai.errors import StoreError
from cai.records import (
    EvalReply,
    Grade,
    Pair,
    Preference,
    Prompt,
    Revision,
    Round,
    Row,
    Sampled,
    Score,
    ScoredReply,
    Vote,
    chat_of,
)
from cai.store import append_rows, parse_row, read_rows

CHAT = chat_of(
    ("system", "Be brief."),
    ("user", "Hello"),
    ("assistant", "Hi."),
    ("user", "Bye — “ciao”\n\u2028{x}"),
)
GRADE = Grade(
    propositions={"declines": 0.25, "apologises": 1.0},
    class_="ideal",
    style="desired_refusal",
    degree="partial_refusal",
    correct=True,
    score=0.1 + 0.2,
)
SETTINGS = tuple(
    Sampled(model="m", temperature=1.0, max_tokens=8, seed=seed) for seed in (1, 2**62)
)
PAIR = Pair(source="p", chat=CHAT, first="one", second="two", sampled=(SETTINGS[0], SETTINGS[1]))
ROWS: list[Row] = [
    Prompt(chat=CHAT, kind="benign", category="cooking", origin="own", user="u1"),
    Prompt(chat=CHAT),
    Revision(
        source="p",
        chat=CHAT,
        initial="a",
        rounds=(Round(principle="kind", critique="c", revision="b"),),
        final="b",
        chosen_round=0,
    ),
    Revision(source="p", chat=CHAT, initial="", final=None, dropped="empty"),
    PAIR,
    Pair(source="p", chat=CHAT, first="", second=""),
    Preference(
        source="q",
        p_first=1 / 3,
        votes=(
            Vote(
                principle="kind",
                logprobs=(-0.1, -2.5),
                logprobs_swapped=None,
                rationale="r",
                p_first=None,
            ),
        ),
    ),
    Preference(source="q", p_first=None, unscored="nobody knows"),
    GRADE,
    EvalReply(
        source="p",
        subject="base",
        chat=CHAT,
        kind=None,
        category=None,
        draw=0,
        response="ok",
        finished=False,
        grade=GRADE,
        reward=-1e-7,
        kl=None,
    ),
    ScoredReply(
        source="p",
        subject="base",
        chat=chat_of(("user", "Hi")),
        condition="none",
        group="",
        draw=0,
        response="Hello",
        finished=True,
        values={"words": 1.0, "relevance": None},
    ),
    Score(
        metric="refusal.rate",
        subject="base",
        mean=0.5,
        stderr=None,
        ci_low=None,
        ci_high=None,
        n=1,
        unscored=3,
    ),
]
NAMES = [f"{type(row).__name__}{i}" for i, row in enumerate(ROWS)]


def shuffled(value: Any, generator: random.Random) -> Any:
    """The same JSON with the keys of every object in another order."""
    if isinstance(value, dict):
        keys = generator.sample(sorted(value), len(value))
        return {key: shuffled(value[key], generator) for key in keys}
    return [shuffled(item, generator) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_round_trip(row: Row, tmp_path: Path) -> None:
    append_rows(tmp_path / "rows.jsonl", [row])
    assert list(read_rows(tmp_path / "rows.jsonl", type(row))) == [row]
    assert "\n" not in row.line()
    assert next(iter(json.loads(row.line()))) == "id"


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_id_does_not_depend_on_key_order(row: Row) -> None:
    """Another program may write the keys of all objects in another order: the row is the same."""
    data = json.loads(row.line())
    for seed in range(5):
        again = parse_row(shuffled(data, random.Random(seed)), type(row), "f:1")
        assert again == row
        assert again.id == row.id


OTHER_CHAT = [{"role": "user", "content": "Hello"}]
CHANGES: dict[type[Row], list[tuple[str, Any]]] = {
    Prompt: [
        ("kind", "sensitive"),
        ("category", "baking"),
        ("origin", None),
        ("user", "u2"),
        ("chat", OTHER_CHAT),
    ],
    Revision: [
        ("source", "z"),
        ("initial", "z"),
        ("rounds", []),
        ("final", "z"),
        ("chosen_round", None),
    ],
    Pair: [("source", "z"), ("first", "z"), ("second", "z"), ("sampled", None)],
    Preference: [("source", "z"), ("p_first", 0.3), ("votes", [])],
    Grade: [
        ("propositions", {"declines": 0.25, "apologises": 0.9}),
        ("class", "other"),
        ("score", 0.3),
        ("correct", False),
    ],
    EvalReply: [
        ("subject", "sft"),
        ("draw", 1),
        ("finished", True),
        ("reward", 0.0),
        ("kl", 0.0),
        ("response", "OK"),
    ],
    ScoredReply: [
        ("condition", "z"),
        ("turn", 2),
        ("graded_text", "x"),
        ("values", {"words": 1.5}),
        ("unscored", "why"),
    ],
    Score: [("metric", "z"), ("mean", 0.25), ("stderr", 0.1), ("n", 2), ("unscored", 4)],
}


@pytest.mark.parametrize("kind", CHANGES, ids=lambda kind: kind.__name__)
def test_id_changes_with_content(kind: type[Row]) -> None:
    """A line with one value changed no longer matches its id: an error of one line."""
    data = json.loads(next(row for row in ROWS if type(row) is kind).line())
    for key, value in CHANGES[kind]:
        assert data[key] != value
        changed = data | {key: value}
        with pytest.raises(
            StoreError, match=r"^f:1: .*id .* does not match .* edited by hand"
        ) as caught:
            parse_row(changed, kind, "f:1")
        assert "\n" not in str(caught.value)


def test_ids_by_content() -> None:
    """Equal content, equal id. An absent key equals an explicit null; 1 and 1.0 are equal."""
    chat = [{"role": "user", "content": "x"}]
    assert (
        Prompt.model_validate({"chat": chat}).id
        == Prompt.model_validate({"kind": None, "chat": chat, "user": None}).id
    )
    assert (
        Prompt.model_validate({"chat": chat, "user": "a"}).id
        != Prompt.model_validate({"chat": chat, "origin": "a"}).id
    )
    assert (
        Preference.model_validate({"source": "s", "p_first": 1}).id
        == Preference(source="s", p_first=1.0).id
    )
    assert Preference(source="s", p_first=0.0).id != Preference(source="s", p_first=1.0).id


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), st.floats(0, 1)
)
def test_any_text_and_probability_survive(text: str, p: float) -> None:
    prompt, preference = Prompt(chat=chat_of(("user", text))), Preference(source=text, p_first=p)
    assert parse_row(json.loads(prompt.line()), Prompt, "f:1") == prompt
    assert parse_row(json.loads(preference.line()), Preference, "f:1") == preference


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_unknown_keys_are_refused(row: Row) -> None:
    with pytest.raises(StoreError, match=r"^f:7: spare: "):
        parse_row(json.loads(row.line()) | {"spare": 1}, type(row), "f:7")


def test_unknown_keys_inside_are_refused() -> None:
    data = json.loads(ROWS[0].line())
    data["chat"][1]["name"] = "x"
    with pytest.raises(StoreError, match=r"^f:7: chat\.1\.name: "):
        parse_row(data, Prompt, "f:7")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_nan_anywhere(bad: float) -> None:
    """Python reads NaN from JSON; a row does not accept it in a field, a vote or a proposition."""
    score = json.loads(ROWS[-1].line())
    del score["id"]
    with pytest.raises(StoreError, match=r"stderr: .*finite"):
        parse_row(json.loads(json.dumps(score | {"stderr": bad})), Score, "f:1")
    with pytest.raises(ValidationError, match="finite"):
        Vote(principle="k", logprobs=(bad, 0.0), logprobs_swapped=None, p_first=None)
    with pytest.raises(ValidationError):
        Preference(source="s", p_first=bad)
    with pytest.raises(ValidationError, match="finite"):
        Sampled(model="m", temperature=bad, max_tokens=8, seed=1)
    with pytest.raises(ValidationError):
        Grade(
            propositions={"a": bad},
            class_=None,
            style=None,
            degree="full_refusal",
            correct=None,
            score=None,
            unscored="x",
        )


@pytest.mark.parametrize("p", [-0.01, 1.01])
def test_probabilities_lie_between_0_and_1(p: float) -> None:
    with pytest.raises(ValidationError):
        Preference(source="s", p_first=p)


def test_label_or_reason() -> None:
    with pytest.raises(ValidationError, match="either p_first or a reason"):
        Preference(source="s", p_first=None)
    with pytest.raises(ValidationError, match="either p_first or a reason"):
        Preference(source="s", p_first=0.5, unscored="but why")


def test_final_or_reason() -> None:
    with pytest.raises(ValidationError, match="either a final text or a reason"):
        Revision(source="s", chat=CHAT, initial="a", final=None)
    with pytest.raises(ValidationError, match="either a final text or a reason"):
        Revision(source="s", chat=CHAT, initial="a", final="a", dropped="but why")


def test_prompts_end_with_the_user() -> None:
    for chat in (chat_of(("user", "Hi"), ("assistant", "Hello")), chat_of(("user", " \n"))):
        with pytest.raises(ValidationError, match="non-empty user turn"):
            Prompt(chat=chat)
    with pytest.raises(ValidationError):
        Prompt(chat=())


def test_rows_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PAIR.first = "x"  # type: ignore[misc]


def test_swap() -> None:
    """Each reply keeps its sampling settings, and a swapped pair is another row.

    Swapped twice, the pair is the same row.
    """
    swapped = PAIR.swap()
    assert (swapped.first, swapped.second) == ("two", "one")
    assert swapped.sampled == (SETTINGS[1], SETTINGS[0])
    assert swapped.id != PAIR.id
    assert parse_row(json.loads(swapped.line()), Pair, "f:1") == swapped
    assert swapped.swap() == PAIR
    assert swapped.swap().id == PAIR.id
    assert Pair(source="p", chat=CHAT, first="a", second="b").swap().sampled is None
