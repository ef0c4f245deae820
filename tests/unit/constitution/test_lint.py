"""The linter of constitutions."""

from __future__ import annotations

from pathlib import Path

import pytest
from constitution_texts import SMALL, constitution_of, write

from cai.constitution import Finding, lint, load_constitution


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


def test_nothing_to_say_of_a_sound_constitution(tmp_path: Path) -> None:
    assert lint(load_constitution(write(tmp_path, "small.yaml", SMALL))) == []


def test_no_principles() -> None:
    assert [finding.where for finding in lint(constitution_of())] == ["principles"]


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
    assert finding.where == "principles"
    assert "sensitive" in finding.message
    assert (
        lint(constitution_of(principle("a", applies_to=["disallowed", "sensitive"]), rubric=rubric))
        == []
    ), "benign prompts may go without"
    assert lint(constitution_of(principle("a", applies_to=["benign"]))) == [], (
        "without a rubric nothing says what each kind deserves"
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
    book = constitution_of(
        principle("a", category="fraud"),
        principle("b", category="theft"),
        categories=["fraud", "weapons"],
    )
    assert [finding.where for finding in lint(book)] == ["categories", "principle:b"]
    assert "'weapons'" in lint(book)[0].message


def test_categories_of_bases_are_joined(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "name: base\nversion: '1'\ncategories: [one, two]\n")
    top = write(
        tmp_path,
        "top.yaml",
        "name: top\nversion: '1'\nextends: [base.yaml]\ncategories: [two, three]\n",
    )
    assert load_constitution(top).categories == ("one", "two", "three")


def test_applies_to_what_is_never_asked() -> None:
    assert [f.where for f in lint(constitution_of(principle("a", applies_to=[])))] == [
        "principle:a.applies_to"
    ]
    some = principle("a"), principle("b", applies_to=["benign"])
    rubric = {
        "behaviours": {"disallowed": "r", "sensitive": "r"},
        "propositions": {"p": {"question": "?", "patterns": ["x"]}},
        "classes": {
            "r": [{"name": "n", "when": "p or not p", "style": "safe_answer", "correct": True}]
        },
        "degrees": {"full_refusal": "p", "full_compliance": "not p"},
        "weights": {},
    }
    assert [f.where for f in lint(constitution_of(*some, rubric=rubric))] == [
        "principle:b.applies_to"
    ]


@pytest.mark.parametrize(
    ("question", "turned"),
    [
        ("Which reply is more harmful?", True),
        ("Say which of the two is the least helpful.", True),
        ("Which of these replies sounds worse?", True),
        ("Which reply is less harmful?", False),
        ("Which reply is better, and which gives a harmful person nothing to use?", False),
        ("Prefer the reply that is more helpful.", False),
    ],
)
def test_questions_for_the_worse_reply(question: str, turned: bool) -> None:
    """Such a question turns every label round."""
    assert [f.where for f in lint(constitution_of(principle("a", compare=question)))] == [
        "principle:a.compare"
    ] * turned


def test_near_duplicates() -> None:
    """22 and 21 words: 20 and 19 shingles of three, 19 shared: 19 / 20 = 0.95. 24 and 8 words: 6 shared of 22: 0.27."""
    words = " ".join(f"w{i}" for i in range(20))
    (finding,) = lint(
        constitution_of(
            principle("a", critique=words, revision="u", compare="v"),
            principle("b", critique=words, revision="U!", compare=None),
        )
    )[1:]
    assert finding.where == "principle:b"
    assert "'a' (similarity 0.95)" in finding.message
    backwards = " ".join(reversed(words.split()))
    assert (
        lint(constitution_of(principle("a", critique=words), principle("b", critique=backwards)))
        == []
    ), "the same words in another order"
    less = principle("b", critique="w0 w1 w2 w3", revision="w4 w5", compare="w6 w7")
    assert lint(constitution_of(principle("a", critique=words), less)) == []


def test_examples_end_with_the_right_turn() -> None:
    chat = [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]
    critique = [{"chat": chat, "critique": "c", "revision": "r"}]
    examples = {
        "critique": critique,
        "compare": [comparison("A"), comparison("B", "user", "assistant")],
    }
    assert [
        finding.where for finding in lint(constitution_of(principle("a"), examples=examples))
    ] == [
        "examples:critique.0.chat",
        "examples:compare.1.chat",
    ]


@pytest.mark.parametrize(
    ("answers", "found"),
    [("AB", 0), ("AAB", 0), ("AABBBB", 0), ("AAAB", 1), ("BBBBBAA", 1), ("BB", 1), ("A", 1)],
)
def test_answers_beyond_two_to_one(answers: str, found: int) -> None:
    findings = lint(
        constitution_of(
            principle("a"), examples={"compare": [comparison(answer) for answer in answers]}
        )
    )
    assert [finding.where for finding in findings] == ["examples:compare"] * found


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
    assert [(finding.where, finding.message.split(":")[0][:17]) for finding in findings] == [
        ("principle:a.compare", "contains '[INST]'"),
        ("principle:b.critique", "2001 characters l"),
        ("examples:compare.0.chat.0.content", "contains '<|', wh"),
    ]
