"""The two passes: exact, prefix, user and near duplicates, and the reasons for each prompt."""

from __future__ import annotations

import random
from typing import Any

import pytest
from data_toys import SENTENCE, outcome, prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.data.dedupe import clean, kept
from cai.data.filters import HygieneConfig, Rules, told
from cai.records import Prompt, chat_of


def test_exact_repetitions_go_and_the_first_stays() -> None:
    assert outcome([prompt("a"), prompt("b"), prompt("a"), prompt("a", kind="benign")]) == [
        "kept",
        "kept",
        "repeated",
        "repeated",
    ]


def test_beginnings() -> None:
    """Twenty characters in common; a shorter text has no such beginning, and repeats nothing."""
    head = "x" * 20
    assert outcome(list(map(prompt, [head + "a", head + "b", "x" * 19, "x" * 18])), prefix=20) == [
        "kept", "same beginning", "kept", "kept",
    ]  # fmt: skip


def test_a_user_has_no_more_than_their_share() -> None:
    users = ["ann", "ann", None, "ann", None, "bob"]
    reasons = outcome([prompt(f"text {i}", user=user) for i, user in enumerate(users)], per_user=2)
    assert reasons == ["kept", "kept", "kept", "too many of a user", "kept", "kept"]


def test_near_repetitions() -> None:
    """One word of 21 changed: 3 of 19 shingles differ on each side, J = 16/22 = 0.73. Another text shares none."""
    changed = SENTENCE.replace("warm", "cold")
    other = "a completely different question about how bread is baked in old stone ovens by careful people who love it"
    assert outcome(list(map(prompt, [SENTENCE, other, changed])), near=0.6) == [
        "kept",
        "kept",
        "nearly repeated",
    ]
    assert outcome(list(map(prompt, [SENTENCE, other, changed])), near=0.95) == ["kept"] * 3


def test_the_likeness_is_the_jaccard_likeness() -> None:
    """Pairs that share a known part of their shingles: MinHash of 64 estimates within three standard errors, 0.19."""
    from cai.data.dedupe import signature
    from cai.data.filters import shingles

    stream = random.Random(3)
    for _ in range(20):
        words = [f"w{stream.randrange(10**6)}" for _ in range(60)]
        swapped = [w if stream.random() > 0.05 else f"v{i}" for i, w in enumerate(words)]
        a, b = set(shingles(" ".join(words))), set(shingles(" ".join(swapped)))
        estimate = float((signature(" ".join(words)) == signature(" ".join(swapped))).mean())
        assert estimate == pytest.approx(len(a & b) / len(a | b), abs=0.19)


def test_masked_or_dropped() -> None:
    chat = chat_of(
        ("user", "I am ann@example.org"), ("assistant", "Hello."), ("user", "Call 650-253-0000")
    )
    prompts = [Prompt(chat=chat), prompt("nothing personal")]
    assert outcome(prompts, pii="drop") == ["personal data (email)", "kept"]
    config = HygieneConfig(pii="mask")
    rules = Rules(config, len)
    found = clean(lambda: iter(prompts), config, rules)
    masked = list(kept(lambda: iter(prompts), rules, found))
    assert [m.content for m in masked[0].chat] == ["I am [EMAIL]", "Hello.", "Call [PHONE]"]
    assert masked[1] == prompts[1]


def test_what_goes_for_itself_takes_no_other_with_it() -> None:
    """The first of two near twins is too long: the second stays."""
    config: dict[str, Any] = {"near": 0.6, "max_tokens": 22}
    assert outcome([prompt(SENTENCE + " at last"), prompt(SENTENCE)], **config) == [
        "too long",
        "kept",
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([None, "ann", "bob"])), max_size=30))
def test_as_a_plain_loop_would(rows: list[tuple[int, str | None]]) -> None:
    """Exact repetitions and users, against the obvious one-pass program."""
    prompts = [prompt(f"text {number}", user=user) for number, user in rows]
    seen: set[str] = set()
    want = []
    for one in prompts:
        want.append("repeated" if told(one) in seen else "kept")
        seen.add(told(one))
    users: dict[str, int] = {}
    for i, one in enumerate(prompts):
        if want[i] == "kept" and one.user:
            users[one.user] = users.get(one.user, 0) + 1
            if users[one.user] > 2:
                want[i] = "too many of a user"
    assert outcome(prompts, per_user=2) == want


def test_nothing_comes_out_of_nothing() -> None:
    assert outcome([], near=0.8, prefix=20, per_user=1) == []
