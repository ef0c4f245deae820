"""The linter of constitutions."""

from __future__ import annotations

import time
from itertools import combinations
from pathlib import Path

import pytest
from constitution_texts import SMALL, constitution_of, write
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution import Constitution, Finding, Principle, lint, load_constitution
from cai.constitution.lint import MAX_DUPLICATES, NEAR_DUPLICATE, _candidates


def locations(constitution: Constitution) -> list[str]:
    return [finding.location for finding in lint(constitution)]


def principle(name: str, **fields: object) -> dict[str, object]:
    return {
        "id": name,
        "category": "c",
        "critique": f"{name} one",
        "revision": f"{name} two",
        "compare": f"{name} three",
    } | fields


def comparison(answer: str, *roles: str) -> dict[str, object]:
    return {
        "chat": [{"role": role, "content": "Hi"} for role in roles or ("user",)],
        "first": "a",
        "second": "b",
        "answer": answer,
    }


def test_no_findings_in_a_sound_constitution(tmp_path: Path) -> None:
    assert lint(load_constitution(write(tmp_path, "small.yaml", SMALL))) == []


def test_no_principles() -> None:
    assert locations(constitution_of()) == ["principles"]


def test_a_kind_without_a_principle() -> None:
    rubric = {
        "behaviours": {"disallowed": "r"},
        "propositions": {},
        "classes": {},
        "degrees": {},
        "weights": {},
    }
    (finding,) = lint(
        constitution_of(principle("a", applies_to=["disallowed", "benign"]), rubric=rubric)
    )
    assert finding.location == "principles"
    assert "sensitive" in finding.message
    covered = constitution_of(principle("a", applies_to=["disallowed", "sensitive"]), rubric=rubric)
    assert lint(covered) == [], "benign prompts may go without"
    assert lint(constitution_of(principle("a", applies_to=["benign"]))) == [], (
        "without a rubric kinds are not told apart"
    )
    assert lint(constitution_of(rubric=rubric)) == [], "a rubric alone is a base for others"


def test_missing_texts() -> None:
    assert lint(constitution_of({"id": "a", "category": "c", "critique": "x"}, principle("b"))) == [
        Finding(
            "principle:a",
            "no revision, no compare text: it cannot be drawn for revision and cannot label pairs",
        )
    ]


def test_declared_categories_and_those_of_principles_agree() -> None:
    constitution = constitution_of(
        principle("a", category="fraud"),
        principle("b", category="theft"),
        categories=["fraud", "weapons"],
    )
    assert locations(constitution) == ["categories", "principle:b"]
    assert "'weapons'" in lint(constitution)[0].message


def test_applies_to_kinds_that_never_occur() -> None:
    never = constitution_of(principle("a", applies_to=[]))
    assert locations(never) == ["principle:a.applies_to"]
    rubric = {
        "behaviours": {"disallowed": "r", "sensitive": "r"},
        "propositions": {"p": {"question": "?", "patterns": ["x"]}},
        "classes": {
            "r": [{"name": "n", "when": "p or not p", "style": "safe_answer", "correct": True}]
        },
        "degrees": {"full_refusal": "p", "full_compliance": "not p"},
        "weights": {},
    }
    ungraded = principle("b", applies_to=["benign"])
    constitution = constitution_of(principle("a"), ungraded, rubric=rubric)
    assert locations(constitution) == ["principle:b.applies_to"]


@pytest.mark.parametrize(
    ("question", "inverted"),
    [
        ("Which reply is more harmful?", True),
        ("Say which of the two is the least helpful.", True),
        ("Which of these replies sounds worse?", True),
        ("Which reply is less harmful?", False),
        ("Which reply is better, and which gives a harmful person nothing to use?", False),
        ("Prefer the reply that is more helpful.", False),
    ],
)
def test_questions_for_the_worse_reply(question: str, inverted: bool) -> None:
    """Such a question would invert the labels."""
    expected = ["principle:a.compare"] if inverted else []
    assert locations(constitution_of(principle("a", compare=question))) == expected


def test_near_duplicates() -> None:
    """22 and 21 words: 20 and 19 shingles of three, 19 shared: 19 / 20 = 0.95.

    24 and 8 words: 6 shared of 22: 0.27.
    """
    words = " ".join(f"w{i}" for i in range(20))
    (finding,) = lint(
        constitution_of(
            principle("a", critique=words, revision="u", compare="v"),
            principle("b", critique=words, revision="U!", compare=None),
        )
    )[1:]
    assert finding.location == "principle:b"
    assert "'a' (similarity 0.95)" in finding.message
    backwards = " ".join(reversed(words.split()))
    reversed_order = principle("b", critique=backwards)
    constitution = constitution_of(principle("a", critique=words), reversed_order)
    assert lint(constitution) == [], "the same words in another order"
    shorter = principle("b", critique="w0 w1 w2 w3", revision="w4 w5", compare="w6 w7")
    assert lint(constitution_of(principle("a", critique=words), shorter)) == []


def test_examples_end_with_the_right_turn() -> None:
    chat = [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]
    critique = [{"chat": chat, "critique": "c", "revision": "r"}]
    examples = {
        "critique": critique,
        "compare": [comparison("A"), comparison("B", "user", "assistant")],
    }
    assert locations(constitution_of(principle("a"), examples=examples)) == [
        "examples:critique.0.chat",
        "examples:compare.1.chat",
    ]


@pytest.mark.parametrize(
    ("answers", "unbalanced"),
    [
        ("AB", False),
        ("AAB", False),
        ("AABBBB", False),
        ("AAAB", True),
        ("BBBBBAA", True),
        ("BB", True),
        ("A", True),
    ],
)
def test_answers_beyond_two_to_one(answers: str, unbalanced: bool) -> None:
    examples = {"compare": [comparison(answer) for answer in answers]}
    expected = ["examples:compare"] if unbalanced else []
    assert locations(constitution_of(principle("a"), examples=examples)) == expected


def test_control_tokens_and_long_texts() -> None:
    chat = [{"role": "user", "content": "<|im_end|>"}]
    examples = {"compare": [comparison("A") | {"chat": chat}, comparison("B")]}
    findings = lint(
        constitution_of(
            principle("a", compare="say [INST] now"),
            principle("b", critique="y" * 2001),
            principle("c", critique="z" * 2000),
            examples=examples,
        )
    )
    assert [(finding.location, finding.message.split(":")[0][:17]) for finding in findings] == [
        ("principle:a.compare", "contains '[INST]'"),
        ("principle:b.critique", "2001 characters l"),
        ("examples:compare.0.chat.0.content", "contains '<|', wh"),
    ]


@pytest.mark.parametrize("alike", [False, True])
def test_thousands_of_principles_are_compared_quickly(alike: bool) -> None:
    """Of different ones nothing is found; of equal ones, as many pairs as one can read."""
    principles = tuple(
        Principle(
            id=f"p{i}",
            category="x",
            critique=f"What is wrong with it, number {0 if alike else i}?",
            revision=f"Rewrite it, number {0 if alike else i}.",
            compare="Which is better?",
        )
        for i in range(4000)
    )
    constitution = Constitution(name="many", version="1", principles=principles)
    started = time.process_time()
    found = [finding for finding in lint(constitution) if "nearly the same" in finding.message]
    assert time.process_time() - started < 5
    assert len(found) == (MAX_DUPLICATES + 1 if alike else 0)


@given(st.lists(st.sets(st.sampled_from("abcdefghijkl"), max_size=12), max_size=12))
def test_candidates_hold_every_near_duplicate(letters: list[set[str]]) -> None:
    shingles = [{(letter,) for letter in members} for members in letters]
    near = [
        (first, second)
        for first, second in combinations(range(len(shingles)), 2)
        if shingles[first]
        and shingles[second]
        and len(shingles[first] & shingles[second])
        >= NEAR_DUPLICATE * len(shingles[first] | shingles[second])
    ]
    candidates = list(_candidates(shingles))
    assert set(near) <= set(candidates)
    assert candidates == sorted(set(candidates))
