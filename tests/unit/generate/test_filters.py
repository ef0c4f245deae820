"""Gates: degenerate text, near copies and joined gates."""

from __future__ import annotations

import random
from difflib import SequenceMatcher

import pytest
from generate_toys import declines, prompt
from hypothesis import given
from hypothesis import strategies as st
from time_limit import within

from cai.generate.filters import all_of, near_copy, not_degenerate


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Fine.", None),
        ("", "empty"),
        ("... !", "empty"),
        ("no no no no no", None),
        ("no no no no no no", "repeats itself"),
        ("I can help. I can help. I can help. I can help.", "repeats itself"),
        ("你好", None),
    ],
)
def test_readable(text: str, reason: str | None) -> None:
    """Six times "no" holds the same three words four times; five times it is three times."""
    assert not_degenerate(prompt(), text) == reason


def test_near_copy() -> None:
    """Ratcliff-Obershelp: 2 * shared / (words of both).

    9 shared of 10 and 10: 0.9, no copy. 19 of 20 and 20: 0.95, a copy.
    """
    words = [f"w{i}" for i in range(20)]
    assert not near_copy(" ".join(words[:10]), " ".join([*words[:9], "x"]))
    assert near_copy(" ".join(words), " ".join([*words[:19], "x"]))
    assert near_copy("Same Text", "same  text")


def test_gates_are_joined() -> None:
    gate = all_of(not_degenerate, declines)
    assert gate(prompt(), "") == "empty"
    assert gate(prompt(), "Take this.") == "does not decline"
    assert gate(prompt(), "I am sorry.") is None
    assert all_of()(prompt(), "") is None


def test_near_copy_of_repeated_words_takes_bounded_work() -> None:
    """Two words in random order match in millions of ways: only their numbers are compared."""
    draws = random.Random(0)
    words = draws.choices(["yes", "no"], k=4000)
    with within(seconds=5):
        assert near_copy(" ".join(words), " ".join(draws.sample(words, 4000)))
        assert not near_copy(" ".join(words), "yes " * 4000)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=30), st.randoms(use_true_random=False))
def test_near_copy_agrees_with_the_standard_library(words: list[str], draws: random.Random) -> None:
    other = [word if draws.random() < 0.95 else draws.choice("abc") for word in words]
    ratio = SequenceMatcher(None, words, other, autojunk=False).ratio()
    assert near_copy(" ".join(words), " ".join(other)) == (ratio > 0.9)
