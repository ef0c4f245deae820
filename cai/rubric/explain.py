"""The explanation of a grade: what decided each proposition, the class, and the score.

For people; nothing parses these lines.
"""

from __future__ import annotations

from collections.abc import Iterator

from cai.records import Grade, Kind
from cai.rubric.grade import CompiledRubric
from cai.rubric.propositions import Ungraded

EVIDENCE_LENGTH = 120
"""Characters of evidence to show."""


def explain(
    compiled: CompiledRubric, grade: Grade, *, prompt: str, response: str, kind: Kind | None
) -> list[str]:
    """One line for each proposition that holds, then degree, class and score."""
    return [
        *_proposition_lines(compiled, grade, prompt, response),
        *_verdict_lines(compiled, grade, kind),
    ]


def _proposition_lines(
    compiled: CompiledRubric, grade: Grade, prompt: str, response: str
) -> Iterator[str]:
    reply = compiled.normalize(Ungraded(prompt, response))
    tests = dict(compiled.tests)
    for id, p in grade.propositions.items():
        evidence = tests[id].evidence(reply) if id in tests else None
        if evidence is not None:
            yield f"{id} {p:.2f}: {_shortened(evidence)!r}"
        elif p > 0.01:
            yield f"{id} {p:.2f}: asked a model: {compiled.questions[id]}"


def _verdict_lines(compiled: CompiledRubric, grade: Grade, kind: Kind | None) -> Iterator[str]:
    if grade.degree is not None:
        yield f"degree: {grade.degree}"
    behaviour = compiled.behaviours.get(kind) if kind else None
    if grade.class_ is None or behaviour is None:
        yield f"no class: {grade.unscored}"
        return
    for rule in behaviour.classes:
        if rule.name == grade.class_:
            correct = "correct" if rule.correct else "not correct"
            yield f"class: {rule.name} of {behaviour.name} ({rule.style}, {correct}): {rule.when}"
    terms = []
    for feature in behaviour.features:
        p = feature.formula.probability(grade.propositions)
        if p > 0.005:
            terms.append(f"{feature.weight * p:+.2f} {feature.name}")
    yield f"score {grade.score:.2f} = {' '.join(terms) or 'nothing'}"


def _shortened(text: str) -> str:
    return text if len(text) <= EVIDENCE_LENGTH else text[: EVIDENCE_LENGTH - 1] + "…"
