"""Explanations: the text, the class and the terms of the score."""

from __future__ import annotations

from rubric_toys import MODEL_TOY

from cai.constitution.schema import Rubric
from cai.rubric import compile_rubric, grade_propositions
from cai.rubric.explain import explain


def test_an_explanation_names_text_class_and_terms() -> None:
    compiled = compile_rubric(Rubric.model_validate(MODEL_TOY))
    propositions = {"declines": 1.0, "kind": 0.75, "empty": 0.0}
    result = grade_propositions(compiled, propositions, kind="disallowed")
    lines = explain(compiled, result, prompt="Do it.", response="I can't.", kind="disallowed")
    assert lines == [
        'declines 1.00: "can\'t"',
        "kind 0.75: asked a model: Is it kind?",
        "degree: full_refusal",
        "class: ideal of refuse (desired_refusal, correct): declines and kind",
        "score 1.75 = +1.50 ideal +0.25 curt",
    ]
