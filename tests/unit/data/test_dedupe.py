"""The two passes: exact, prefix, user and near duplicates, and the reasons for each prompt."""

from __future__ import annotations

import random
from typing import Any

import pytest
from data_toys import SENTENCE, outcome, prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.data.dedupe import clean, filtered_prompts
from cai.data.filters import (
    HygieneConfig,
    PromptFilters,
    compared_text,
    conversation_text,
)
from cai.data.minhash import signatures
from cai.data.words import shingles
from cai.records import Prompt, chat_of


def test_exact_repetitions_go_and_the_first_stays() -> None:
    prompts = [prompt("a"), prompt("b"), prompt("a"), prompt("a", kind="benign")]
    assert outcome(prompts) == ["kept", "kept", "repeated", "repeated"]


def test_beginnings() -> None:
    """Twenty characters in common; a shorter text has no such prefix and is never dropped."""
    head = "x" * 20
    texts = [head + "a", head + "b", "x" * 19, "x" * 18]
    reasons = outcome(list(map(prompt, texts)), prefix=20)
    assert reasons == ["kept", "same beginning", "kept", "kept"]


def test_a_user_has_no_more_than_their_share() -> None:
    users = ["ann", "ann", None, "ann", None, "bob"]
    reasons = outcome([prompt(f"text {i}", user=user) for i, user in enumerate(users)], per_user=2)
    assert reasons == ["kept", "kept", "kept", "too many of a user", "kept", "kept"]


def test_near_repetitions() -> None:
    """One word of 21 changed: 3 of 19 shingles differ on each side, J = 16/22 = 0.73.

    The third text shares no shingle with them.
    """
    changed = SENTENCE.replace("warm", "cold")
    other = (
        "a completely different question about how bread is baked in old stone ovens by careful"
        " people who love it"
    )
    prompts = list(map(prompt, [SENTENCE, other, changed]))
    assert outcome(prompts, near=0.6) == ["kept", "kept", "nearly repeated"]
    assert outcome(prompts, near=0.95) == ["kept"] * 3


def test_the_likeness_is_the_jaccard_likeness() -> None:
    """Pairs with a known share of equal shingles.

    MinHash of 64 permutations estimates it within three standard errors, 0.19.
    """
    stream = random.Random(3)
    for _ in range(20):
        words = [f"w{stream.randrange(10**6)}" for _ in range(60)]
        swapped = [w if stream.random() > 0.05 else f"v{i}" for i, w in enumerate(words)]
        text, changed = " ".join(words), " ".join(swapped)
        a, b = set(shingles(text)), set(shingles(changed))
        first, second = signatures([text, changed])
        estimate = float((first == second).mean())
        assert estimate == pytest.approx(len(a & b) / len(a | b), abs=0.19)


def test_recall_of_planted_pairs() -> None:
    """300 texts of 60 words, each again with one word changed: 3 of 58 shingles differ on each
    side, so J = 55/61 = 0.90.

    64 permutations estimate that with a standard error of 0.037, so at a threshold of 0.8 less than
    1 pair in 100 is missed; and no pair is taken from texts without a common shingle.
    """
    stream = random.Random(7)
    texts = [[f"w{stream.randrange(10**6)}" for _ in range(60)] for _ in range(300)]
    changed = [[*words[:30], "other", *words[31:]] for words in texts]
    outcomes = outcome([prompt(" ".join(words)) for words in [*texts, *changed]], near=0.8)
    assert outcomes[:300] == ["kept"] * 300
    assert outcomes[300:].count("nearly repeated") >= 294


def test_masked_or_dropped() -> None:
    chat = chat_of(
        ("user", "I am ann@example.org"), ("assistant", "Hello."), ("user", "Call 650-253-0000")
    )
    prompts = [Prompt(chat=chat), prompt("nothing personal")]
    assert outcome(prompts, pii="drop") == ["personal data (email)", "kept"]
    config = HygieneConfig(pii="mask")
    rules = PromptFilters(config, len)
    cleaned = clean(lambda: iter(prompts), config, rules)
    masked = list(filtered_prompts(lambda: iter(prompts), rules, cleaned))
    assert [m.content for m in masked[0].chat] == ["I am [EMAIL]", "Hello.", "Call [PHONE]"]
    assert masked[1] == prompts[1]


def test_what_goes_for_itself_takes_no_other_with_it() -> None:
    """The first of two near duplicates is too long: the second stays."""
    config: dict[str, Any] = {"near": 0.6, "max_tokens": 22}
    prompts = [prompt(SENTENCE + " at last"), prompt(SENTENCE)]
    assert outcome(prompts, **config) == ["too long", "kept"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([None, "ann", "bob"])), max_size=30))
def test_as_a_plain_loop_would(rows: list[tuple[int, str | None]]) -> None:
    """Exact repetitions and users, compared with a plain one-pass loop."""
    prompts = [prompt(f"text {number}", user=user) for number, user in rows]
    seen: set[str] = set()
    expected = []
    for row in prompts:
        expected.append("repeated" if conversation_text(row) in seen else "kept")
        seen.add(conversation_text(row))
    users: dict[str, int] = {}
    for i, row in enumerate(prompts):
        if expected[i] == "kept" and row.user:
            users[row.user] = users.get(row.user, 0) + 1
            if users[row.user] > 2:
                expected[i] = "too many of a user"
    assert outcome(prompts, per_user=2) == expected


def test_nothing_comes_out_of_nothing() -> None:
    assert outcome([], near=0.8, prefix=20, per_user=1) == []


SYSTEM = ("system", "You are a kind and careful assistant who answers in a few plain words.")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"near": 0.6}, "nearly repeated"),
        ({"prefix": 40}, "same beginning"),
        ({"ngram": 8}, "kept"),
    ],
)
def test_a_shared_system_prompt_makes_no_duplicates(options: dict[str, Any], reason: str) -> None:
    questions = [
        "What is rain, and why does it fall on some days but not on others?",
        "Name three fish that live in the north of the Atlantic ocean, please.",
        "How do I bake bread at home without an oven or a mixer?",
    ]
    prompts = [Prompt(chat=chat_of(SYSTEM, ("user", text))) for text in questions]
    evaluation = [compared_text(Prompt(chat=chat_of(SYSTEM, ("user", "Who sings at night?"))))]
    assert outcome(prompts, evaluation, **options) == ["kept"] * 3
    repeated = Prompt(chat=chat_of(("system", "Be brief."), ("user", questions[0])))
    assert outcome([prompts[0], repeated], evaluation, **options) == ["kept", reason]
    assert outcome([repeated], [questions[0]], **options) == ["in an evaluation"]


@pytest.mark.parametrize(
    ("evaluation", "training"),
    [
        (
            "请问怎样才能在家里安全地存放清洁用品以免孩子误食",
            "你好，请问怎样才能在家里安全地存放？",
        ),
        (
            "家で洗剤を安全に保管するにはどうすればいいですか",
            "家で洗剤を安全に保管するには何が",
        ),
        ("กรุณาบอกวิธีเก็บน้ำยาทำความสะอาดในบ้านอย่างปลอดภัย", "สวัสดี กรุณาบอกวิธีเก็บน้ำยาทำความสะอาดด้วย"),
    ],
    ids=["Chinese", "Japanese", "Thai"],
)
def test_scripts_without_spaces_are_compared_by_characters(evaluation: str, training: str) -> None:
    other = evaluation[::-1]
    prompts = [prompt(training), prompt(other)]
    assert outcome(prompts, [evaluation]) == ["in an evaluation", "kept"]
    near = [prompt(evaluation), prompt(evaluation + "?"), prompt(evaluation[:-1]), prompt(other)]
    assert outcome(near, near=0.7) == ["kept", "nearly repeated", "nearly repeated", "kept"]


def test_texts_without_a_word_differ() -> None:
    texts = ["\U0001f600\U0001f600", "\U0001f525\U0001f525\U0001f525", "???", "!!!"]
    assert outcome([prompt(text) for text in texts], near=0.8) == ["kept"] * 4


def test_invisible_characters_do_not_hide_repetitions() -> None:
    texts = ["How do I boil an egg?", "How do I bo\u200bil an egg?", "How\u00ad do I boil an egg?"]
    texts += ["the caf\u00e9 menu please", "the cafe\u0301 menu please"]
    assert outcome([prompt(text) for text in texts], near=0.9) == [
        "kept",
        "nearly repeated",
        "nearly repeated",
        "kept",
        "nearly repeated",
    ]
