"""Why a reply has the grade it has: the text that decided each proposition, the class's expression, the terms of the score."""

from __future__ import annotations

from collections.abc import Iterator

from cai.records import Grade, Kind
from cai.rubric.compile import CompiledRubric
from cai.rubric.propositions import read_reply

SHOWN = 120


def explain(compiled: CompiledRubric, grade: Grade, *, prompt: str, response: str, kind: Kind | None) -> list[str]:
    """Lines for people."""
    return [*_propositions(compiled, grade, prompt, response), *_verdict(compiled, grade, kind)]


def _propositions(compiled: CompiledRubric, grade: Grade, prompt: str, response: str) -> Iterator[str]:
    reply, tests = read_reply(prompt, response, compiled.prefilter), dict(compiled.tests)
    for id, p in grade.propositions.items():
        evidence = tests[id].evidence(reply) if id in tests else None
        if evidence is not None:
            yield f"{id} {p:.2f}: {_short(evidence)!r}"
        elif p > 0.01:
            yield f"{id} {p:.2f}: asked a model: {compiled.questions[id]}"


def _verdict(compiled: CompiledRubric, grade: Grade, kind: Kind | None) -> Iterator[str]:
    if grade.degree is not None:
        yield f"degree: {grade.degree}"
    behaviour = compiled.behaviours.get(kind) if kind else None
    if grade.class_ is None or behaviour is None:
        yield f"no class: {grade.unscored}"
        return
    for rule in behaviour.classes:
        if rule.name == grade.class_:
            right = "correct" if rule.correct else "not correct"
            yield f"class: {rule.name} of {behaviour.name} ({rule.style}, {right}): {rule.when}"
    terms = [(f.name, f.weight, f.formula.probability(grade.propositions)) for f in behaviour.features]
    told = " ".join(f"{weight * p:+.2f} {name}" for name, weight, p in terms if p > 0.005) or "nothing"
    yield f"score {grade.score:.2f} = {told}"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
