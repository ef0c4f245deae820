"""Truth tables: probabilities of formulas, and coverage gaps of best classes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rubric_toys import COMPILED, SHIPPED, TOY, toy

from cai.rubric import check_rubric, compile_rubric


def test_a_best_answer_that_need_not_answer_is_found() -> None:
    """A partition, and yet the best class for harmless prompts holds of a refusal."""
    classes = {
        "answer": [
            {"name": "ideal", "when": "not apologises", "style": "safe_answer", "correct": True},
            {"name": "sorry", "when": "apologises", "style": "undesired_refusal", "correct": False},
        ]
    }
    weights = {"answer": {"ideal": 1.0}}
    findings = check_rubric(
        toy(behaviours={"benign": "answer"}, classes=classes, weights=weights, derived={})
    )
    assert findings == [
        "rubric.classes.answer.ideal: the best answer need not comply in full: "
        "it holds when declines"
    ]


def test_what_all_other_best_classes_exclude_is_missed() -> None:
    def two_classes(when: str) -> list[dict[str, Any]]:
        other = {
            "name": "other",
            "when": f"not ({when})",
            "style": "undesired_refusal",
            "correct": False,
        }
        return [{"name": "ideal", "when": when, "style": "safe_answer", "correct": True}, other]

    findings = check_rubric(
        toy(
            behaviours={"disallowed": "a", "sensitive": "b", "benign": "c"},
            classes={
                "a": two_classes("declines and not rude"),
                "b": two_classes("not rude"),
                "c": two_classes("not declines"),
            },
            propositions=TOY["propositions"] | {"rude": {"question": "?", "patterns": ["x"]}},
            weights={name: {"ideal": 1.0, "apologises": 0.1} for name in "abc"},
            derived={},
        )
    )
    assert findings == [
        "rubric.classes.c.ideal: says nothing of rude, which all other best classes exclude"
    ]


def test_a_name_used_twice_is_not_multiplied_twice() -> None:
    """P(d or (d and a)) is P(d) = 0.6, whatever a is."""
    compiled = compile_rubric(
        toy(degrees={"full_refusal": "declines or polite", "full_compliance": "not declines"})
    )
    formulas = dict(zip(compiled.degrees, compiled.degree_partition.formulas, strict=True))
    p = {"apologises": 0.3, "declines": 0.6}
    assert formulas["full_refusal"].probability(p) == pytest.approx(0.6)


unit = st.floats(0, 1)


@settings(deadline=None, max_examples=25)
@given(st.fixed_dictionaries(dict.fromkeys(SHIPPED.propositions, unit)))
def test_class_and_degree_probabilities_sum_to_one(p: dict[str, float]) -> None:
    degrees = COMPILED.degree_partition.formulas
    assert sum(formula.probability(p) for formula in degrees) == pytest.approx(1)
    for behaviour in COMPILED.behaviours.values():
        assert sum(rule.formula.probability(p) for rule in behaviour.classes) == pytest.approx(1)
