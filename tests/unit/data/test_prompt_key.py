"""Prompts that differ in form alone are on one side of every split."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from data_toys import outcome, prompt

from cai.data.filters import prompt_key
from cai.data.near_duplicates import NearDuplicates
from cai.data.split import split
from cai.generate.filters import near_copy, not_degenerate
from cai.records import Prompt, chat_of
from cai.rubric.held_out_groups import folds_of
from cai.rubric.text_classifier import Labelled
from cai.train.comparison import Comparison
from cai.train.preference import split_by_prompt as split_pairs

FORMS: list[Callable[[str], str]] = [
    str.upper,
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: f"  {text.replace(' ', '  ')}\n",
    lambda text: text.rstrip("?") + "",
    lambda text: text + "!?…",
    lambda text: text.replace("e", "e\u200b"),
    lambda text: "".join(chr(ord(c) + 0xFEE0) if "a" <= c <= "z" else c for c in text),
]
TEXTS = [f"Où était le café numéro {i} de la ville?" for i in range(12)]


@pytest.mark.parametrize("form", FORMS)
def test_a_split_divides_no_forms_of_a_prompt(form: Callable[[str], str]) -> None:
    rows = [prompt(text) for text in TEXTS] + [prompt(form(text)) for text in TEXTS]
    assert len({row.id for row in rows}) == 24
    train, held_out = split(rows, 0.3, 0)
    assert held_out
    assert not {prompt_key(p) for p in train} & {prompt_key(p) for p in held_out}
    assert len({prompt_key(p) for p in rows}) == 12


@pytest.mark.parametrize("form", FORMS)
def test_nor_does_that_of_pairs_or_of_labelled_texts(form: Callable[[str], str]) -> None:
    """Both go by the key that `make_comparison` and `cai fit-grader` give their rows."""
    keys = [prompt_key(prompt(text)) for text in (*TEXTS, *map(form, TEXTS))]
    train, held_out = split_pairs([Comparison(key, [0], [1], 1.0) for key in keys], 0.3, 0)
    assert held_out
    assert not {c.prompt for c in train} & {c.prompt for c in held_out}
    texts = [Labelled(key, frozenset(), i % 2 == 0) for i, key in enumerate(keys)]
    folds = folds_of(texts)
    assert folds
    for fold in folds:
        assert not {row.prompt for row in fold.train} & {row.prompt for row in fold.test}


def test_comparisons_have_that_key(tiny_model: Path) -> None:
    from preference_toys import untrained_model

    from cai.pipeline.preference_model import make_comparison

    model = untrained_model(tiny_model)
    keys = {
        make_comparison(model, chat_of(("system", s), ("user", text)), ("a", "b"), 1.0).prompt
        for s in ("Be kind.", "Be brief.")
        for text in ("Hi there", "HI THERE!")
    }
    assert len(keys) == 1


def test_what_differs_in_words_has_another_key() -> None:
    texts = ["a b", "ab", "a", "?", "!", "1.5", "15", "a b c"]
    chats = [chat_of(("user", "a"), ("assistant", "x"), ("user", "b"))]
    rows = [prompt(text) for text in texts] + [Prompt(chat=chat) for chat in chats]
    assert len({prompt_key(row) for row in rows}) == len(rows)


def test_a_shared_system_prompt_makes_no_duplicates() -> None:
    system = "You are a careful assistant of a library, and you answer in one short sentence only."
    questions = ["Where are the maps?", "May I bring a dog?", "When do you close today?"]
    rows = [Prompt(chat=chat_of(("system", system), ("user", text))) for text in questions]
    assert outcome(rows, near=0.6, prefix=20) == ["kept"] * 3


CHINESE = "请告诉我怎样在家里种植西红柿并且让它们在夏天结出很多果实"
JAPANESE = "家で美味しいパンを焼くために必要な材料と手順を詳しく教えてください"


@pytest.mark.parametrize("text", [CHINESE, JAPANESE])
def test_scripts_without_spaces_are_compared_by_characters(text: str) -> None:
    close, other = text + "吗", text[::-1]
    assert outcome([prompt(text), prompt(close), prompt(other)], near=0.7) == [
        "kept",
        "nearly repeated",
        "kept",
    ]
    seen = NearDuplicates(0.7)
    assert [seen.seen(x) for x in (text, close, other)] == [False, True, False]
    assert near_copy(text, close)
    assert not near_copy(text, other)
    assert not_degenerate(prompt("x"), text) is None
    assert not_degenerate(prompt("x"), text * 4) == "repeats itself"
