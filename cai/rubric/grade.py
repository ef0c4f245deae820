"""Grading one reply with a compiled rubric."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cai.errors import UsageError
from cai.records import Grade, Kind, Prompt
from cai.rubric.compile import CompiledRubric
from cai.rubric.propositions import NormalizedReply, read_reply

NO_KIND = "no kind: the rubric cannot know what the reply should do"


def grade(compiled: CompiledRubric, *, prompt: str, response: str, kind: Kind | None, source: str | None = None) -> Grade:
    """What the rubric says of `response`, with every proposition decided by its patterns or computed test.

    Any text can be graded, an empty one too. `prompt` is the last user turn. Without a `kind` there is a degree, but no class and
    no score.

    Raises:
        UsageError: only a model can decide one of the propositions.
    """
    if compiled.asked:
        named = ", ".join(compiled.asked)
        raise UsageError(f"rubric: only a model can decide {named}: name one (--model), or give patterns")
    return grade_propositions(
        compiled, evaluate_propositions(compiled, read_reply(prompt, response, compiled.prefilter)), kind=kind, source=source
    )


def evaluate_propositions(compiled: CompiledRubric, reply: NormalizedReply) -> dict[str, float]:
    """Every proposition that has a test -> its probability."""
    return {id: test(reply) for id, test in compiled.tests}


def unscored_grade(propositions: Mapping[str, float], reason: str, source: str | None = None) -> Grade:
    """The grade of a reply of which something is not known."""
    none = {"class_": None, "style": None, "degree": None, "correct": None, "score": None}
    return Grade(source=source, propositions=dict(propositions), unscored=reason, **none)


def grade_propositions(
    compiled: CompiledRubric, propositions: Mapping[str, float], *, kind: Kind | None, source: str | None = None
) -> Grade:
    """The grade that follows from the propositions' probabilities (all of them, by id; KeyError when one is missing).

        P(class) = sum over the assignments that satisfy it of the product of P(proposition) or 1 - P(proposition)
        score = sum of weight * P(feature)         as in arXiv:2411.01111, propositions taken as independent

    Class and degree are the most probable ones; of two equally probable ones the later listed, so that doubt is not paid for.
    """
    given = dict(propositions)
    degree = compiled.degrees[compiled.degree.most_probable(given)]
    if kind is None:
        return Grade(
            source=source, propositions=given, class_=None, style=None, degree=degree, correct=None, score=None, unscored=NO_KIND
        )
    behaviour = compiled.behaviours.get(kind)
    if behaviour is None:
        reason = f"the rubric says nothing of {kind} prompts"
        return Grade(
            source=source, propositions=given, class_=None, style=None, degree=degree, correct=None, score=None, unscored=reason
        )
    best = behaviour.classes[behaviour.choice.most_probable(given)]
    score = sum(feature.weight * feature.formula.probability(given) for feature in behaviour.features)
    return Grade(
        source=source, propositions=given, class_=best.name, style=best.style, degree=degree, correct=best.correct, score=score
    )


def gate_of(compiled: CompiledRubric) -> Callable[[Prompt, str], str | None]:
    """Only what the rubric calls correct behaviour for the prompt's kind may be trained on; without a kind, anything."""

    def gate(prompt: Prompt, reply: str) -> str | None:
        found = grade(compiled, prompt=prompt.chat[-1].content, response=reply, kind=prompt.kind)
        return None if found.correct or found.correct is None else f"rubric: {found.class_}"

    return gate
