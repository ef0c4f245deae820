"""Prompts of several files, and the split into training and held-out sets."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from data_toys import prompt
from json_lines import write_lines

from cai.data.split import read_prompts, split
from cai.errors import StoreError
from cai.records import Kind, Prompt, chat_of


def new_file(folder: Path, *lines: object) -> Path:
    return write_lines(folder / f"{len(list(folder.iterdir()))}.jsonl", *lines)


def test_both_forms_of_a_line(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "b"}]
    first = new_file(
        tmp_path,
        {"prompt": "a", "kind": "benign", "category": "c", "origin": "o", "user": "u"},
        {"chat": chat},
    )
    second = new_file(tmp_path, {"prompt": "c"}, {"chat": chat})
    assert read_prompts([first, second])[0] == [
        Prompt(chat=chat_of(("user", "a")), kind="benign", category="c", origin="o", user="u"),
        Prompt(chat=chat_of(("system", "s"), ("user", "b"))),
        Prompt(chat=chat_of(("user", "c"))),
    ]
    assert (
        read_prompts([new_file(tmp_path, read_prompts([first])[0][0].line())])[0]
        == read_prompts([first])[0][:1]
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({}, "needs either `prompt`"),
        ({"prompt": "a", "chat": [{"role": "user", "content": "a"}]}, "needs either `prompt`"),
        ({"prompt": 3}, "`prompt` must be text, found int"),
        ({"prompt": ["a"]}, r"chat\.0: "),
        ({"prompt": " "}, "non-empty user turn"),
        (
            {"prompt": "a", "kind": "harmful"},
            "kind: Input should be 'disallowed', 'sensitive' or 'benign'",
        ),
        ({"prompt": "a", "categry": "x"}, "unknown key `categry`: did you mean `category`"),
        ({"chat": "a"}, "`chat` must be a list of turns"),
        ({"chat": []}, "chat: "),
        ({"chat": [{"role": "assistant", "content": "a"}]}, "non-empty user turn"),
        ({"chat": [{"role": "tool", "content": "a"}]}, "non-empty user turn"),
        ("{", "not JSON"),
        ([1], "found list"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: object, why: str) -> None:
    good, bad = new_file(tmp_path, {"prompt": "x"}), new_file(tmp_path, {"prompt": "a"}, line)
    with pytest.raises(StoreError, match=rf"1\.jsonl:2: .*{why}") as caught:
        read_prompts([good, bad])
    assert "\n" not in str(caught.value)


def test_no_prompts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"0\.jsonl: no prompt in it"):
        read_prompts([new_file(tmp_path)])
    with pytest.raises(StoreError, match="no prompt in it"):
        read_prompts([])
    with pytest.raises(StoreError, match=r"none\.jsonl: cannot read"):
        read_prompts([tmp_path / "none.jsonl"])


def prompts(count: int, kind: Kind | None, category: str | None, users: int = 0) -> list[Prompt]:
    return [
        Prompt(
            chat=chat_of(("user", f"{kind} {category} {i}")),
            kind=kind,
            category=category,
            user=f"u{i % users}" if users else None,
        )
        for i in range(count)
    ]


def test_split_is_stratified() -> None:
    """A fifth of 50, 10 and 7 prompts, rounded: 10, 2 and 1.

    Both sides keep the order, and no prompt is lost or doubled.
    """
    rows = (
        prompts(50, "disallowed", "drugs")
        + prompts(10, "benign", "drugs")
        + prompts(7, "benign", None)
    )
    random.Random(0).shuffle(rows)
    train, held = split(rows, 0.2, 0)
    assert Counter((p.kind, p.category) for p in held) == {
        ("disallowed", "drugs"): 10,
        ("benign", "drugs"): 2,
        ("benign", None): 1,
    }
    assert [p for p in rows if p in held] == held
    assert [p for p in rows if p not in held] == train


def test_split_follows_from_seed_and_content_alone() -> None:
    """Another order of the input gives the same split, another seed another one.

    No prompt or all prompts can be held out.
    """
    rows = prompts(40, "benign", "a")
    shuffled = random.Random(1).sample(rows, 40)
    held = {p.id for p in split(rows, 0.25, 0)[1]}
    assert {p.id for p in split(shuffled, 0.25, 0)[1]} == held
    assert {p.id for p in split(rows, 0.25, 1)[1]} != held
    assert split(rows, 0.0, 0) == (rows, [])
    assert split(rows, 1.0, 0) == ([], rows)


def test_prompts_of_another_category_move_nothing() -> None:
    rows = prompts(30, "benign", "a") + prompts(12, "disallowed", "a")
    held = {p.id for p in split(rows, 0.3, 0)[1]}
    more = prompts(17, "benign", "b") + rows + prompts(9, "sensitive", "a")
    assert {p.id for p in split(more, 0.3, 0)[1] if p in rows} == held


@pytest.mark.parametrize("seed", range(5))
def test_all_prompts_of_a_user_are_on_one_side(seed: int) -> None:
    """60 prompts by 12 users, five each; a third of them is 20: four users, none on both sides."""
    train, held = split(prompts(60, "benign", "a", users=12), 1 / 3, seed)
    assert len(held) == 20
    assert {p.user for p in train}.isdisjoint(p.user for p in held)


@pytest.mark.parametrize("seed", range(5))
def test_one_busy_user_does_not_empty_the_held_out_side(seed: int) -> None:
    """40 prompts by one user, 10 by ten others; a fifth of 50 is 10.

    Whichever user is drawn first, the ten others are held out.
    """
    busy = [p.model_copy(update={"user": "busy"}) for p in prompts(40, "benign", "a")]
    others = [
        p.model_copy(update={"user": f"u{i}"})
        for i, p in enumerate(prompts(50, "benign", "a")[40:])
    ]
    assert split(busy + others, 0.2, seed) == (busy, others)


@pytest.mark.parametrize("seed", range(5))
def test_a_user_is_on_one_side_whatever_they_ask(seed: int) -> None:
    """Thirty users with a prompt in each of three categories: 30 % of each category is 9 users.

    No user is on both sides.
    """
    rows = [p for c in "abc" for p in prompts(30, "benign", c, users=30)]
    train, held = split(rows, 0.3, seed)
    assert Counter(p.category for p in held) == {"a": 9, "b": 9, "c": 9}
    assert {p.user for p in train}.isdisjoint(p.user for p in held)


def test_split_by_origin() -> None:
    """Ten sources of ten prompts each: three complete sources are held out."""
    rows = [
        p.model_copy(update={"origin": f"source {i % 10}"})
        for i, p in enumerate(prompts(100, "benign", "a"))
    ]
    train, held = split(rows, 0.3, 0, "origin")
    assert len(held) == 30
    assert {p.origin for p in train}.isdisjoint(p.origin for p in held)


@pytest.mark.parametrize("seed", range(8))
def test_prompts_that_differ_by_case_are_on_one_side(seed: int) -> None:
    """Also through users: `ann` asks what `bob` asks, who has another question of his own."""
    base = [prompt(f"Question {i}?", kind="benign") for i in range(20)]
    twins = [prompt(f"QUESTION  {i}?", kind="benign") for i in range(20)]
    users = [prompt("A b?", user="ann"), prompt("a B?", user="bob"), prompt("c", user="bob")]
    training, held_out = split([*base, *twins, *users], 0.3, seed)
    assert len(training) + len(held_out) == 43
    texts = [{" ".join(p.chat[0].content.lower().split()) for p in s} for s in (training, held_out)]
    assert texts[0].isdisjoint(texts[1])
    sides = [row in held_out for row in users]
    assert len(set(sides)) == 1
