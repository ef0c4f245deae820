"""Replies of one prompt, ranked by a judge: shares by hand, ties, and verdicts that are missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.generate.rank import rank_replies
from cai.records import Pair, Preference, Prompt, chat_of

HI = Prompt(chat=chat_of(("user", "Hi")))


def ranked(replies: list[str], better: Callable[[str, str], float | None]) -> list[float | None]:
    """The shares by a judge that says `better(first, second)`; it is asked about each pair once."""
    seen: set[frozenset[str]] = set()

    async def label(pair: Pair) -> Preference:
        assert pair.source == HI.id
        assert pair.chat == HI.chat
        texts = frozenset({pair.first, pair.second})
        assert len(texts) == 2
        assert texts not in seen
        seen.add(texts)
        p_first = better(pair.first, pair.second)
        unscored = "no verdict" if p_first is None else None
        return Preference(source=pair.id, p_first=p_first, votes=(), unscored=unscored)

    return asyncio.run(rank_replies(label, HI, replies))


def test_shares_by_hand() -> None:
    """P(a>b) = 0.9, P(a>c) = 0.7, P(b>c) = 0.4: a (0.9+0.7)/2, b (0.1+0.4)/2, c (0.3+0.6)/2."""
    table = {("a", "b"): 0.9, ("a", "c"): 0.7, ("b", "c"): 0.4}
    shares = ranked(["a", "b", "c"], lambda first, second: table[first, second])
    assert shares == pytest.approx([0.8, 0.25, 0.45])


def test_equal_texts_are_equal_without_a_call() -> None:
    assert ranked(["a", "a ", "a"], lambda first, second: None) == [0.5, 0.5, 0.5]
    assert ranked(["a", "b", "a"], lambda first, second: 1.0) == [0.75, 0.0, 0.75]


def test_an_unknown_comparison_makes_both_replies_unknown() -> None:
    def better(first: str, second: str) -> float | None:
        return None if {first, second} == {"a", "b"} else 0.5

    assert ranked(["a", "b", "c", "d"], better) == [None, None, 0.5, 0.5]


def test_a_single_reply_has_no_share() -> None:
    assert ranked(["a"], lambda first, second: 1.0) == [None]
    assert ranked([], lambda first, second: 1.0) == []


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=6))
def test_the_mean_of_known_shares_is_a_half(replies: list[str]) -> None:
    shares = ranked(replies, lambda first, second: 0.9 if first < second else 0.2)
    assert sum(share or 0.0 for share in shares) / len(shares) == pytest.approx(0.5)
