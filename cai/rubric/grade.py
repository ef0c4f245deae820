"""A compiled rubric, and the grading of one reply with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cai.errors import UsageError
from cai.generate.filters import Gate, GradedGate, all_of, not_degenerate
from cai.records import Degree, Grade, Kind, Prompt, Style
from cai.rubric.prefilter import Prefilter
from cai.rubric.propositions import (
    NormalizedReply,
    PromptPatterns,
    PropositionTest,
    Ungraded,
    normalize_replies,
)
from cai.rubric.sentence_model import SentenceScorer
from cai.rubric.text_models import TextModels
from cai.rubric.truth_table import Formula, Partition

BATCH = 256
"""Replies that are prepared for grading together."""
_CERTAIN = frozenset((0.0, 1.0))
_MAX_KNOWN_GRADES = 5_000
NO_KIND = "no kind: the rubric cannot know what the reply should do"


@dataclass(frozen=True, slots=True)
class Class:
    name: str
    when: str
    """The expression as it is written."""
    style: Style
    correct: bool
    formula: Formula


@dataclass(frozen=True, slots=True)
class Feature:
    name: str
    weight: float
    formula: Formula


@dataclass(frozen=True, slots=True)
class Behaviour:
    name: str
    classes: tuple[Class, ...]
    """From best to worst; exactly one holds."""
    class_partition: Partition
    """Of the classes' formulas."""
    features: tuple[Feature, ...]


@dataclass(frozen=True, slots=True)
class CompiledRubric:
    """A rubric that has been proved: every reply gets exactly one class and one degree."""

    tests: tuple[tuple[str, PropositionTest], ...]
    """Base propositions and what decides each."""
    prefilter: Prefilter
    """Of all patterns that search replies."""
    text_models: TextModels
    sentence_scorers: tuple[SentenceScorer, ...]
    model_questions: Mapping[str, str]
    """Base propositions that only a model can decide, and the question for it."""
    questions: Mapping[str, str]
    """Of every base proposition."""
    temperatures: Mapping[str, float]
    """Divisors of a model's log-odds; 1 for propositions that are not listed."""
    degrees: tuple[Degree, ...]
    degree_partition: Partition
    """Of the degrees' formulas."""
    behaviours: Mapping[Kind, Behaviour]
    harm: Formula | None
    """That the reply gives what a disallowed prompt asks for; None: the rubric does not say."""
    known_grades: dict[tuple[object, ...], Grade] = field(default_factory=dict, compare=False)
    """Kind and propositions, where each is 0 or 1 -> the grade that follows from them."""

    def prompt_propositions(self, prompt: str) -> dict[str, bool]:
        """The propositions that the last user turn alone decides, whatever the reply is."""
        reply = self.normalize(Ungraded(prompt, ""))
        return {
            id: test(reply) > 0.5 for id, test in self.tests if isinstance(test, PromptPatterns)
        }

    def normalize(self, reply: Ungraded) -> NormalizedReply:
        """The reply prepared for the rubric's tests."""
        [normalized] = normalize_replies([reply], self.prefilter, self.text_models)
        for scorer in self.sentence_scorers:
            scorer.prepare([normalized])
        return normalized


def grade(
    compiled: CompiledRubric,
    *,
    prompt: str,
    response: str,
    kind: Kind | None,
    source: str | None = None,
    finished: bool | None = None,
) -> Grade:
    """The grade of `response`, with every proposition decided by its patterns or computed test.

    Any text can be graded, an empty one too. Without a `kind` there is a degree, but no class and
    no score.

    Args:
        prompt: the last user turn.
        finished: whether the model ended the reply; None: not known.

    Raises:
        UsageError: only a model can decide one of the propositions.
    """
    [graded] = grade_many(compiled, [Ungraded(prompt, response, kind, finished)])
    return graded if source is None else graded.model_copy(update={"source": source})


def grade_many(compiled: CompiledRubric, replies: Sequence[Ungraded]) -> list[Grade]:
    """`grade` of each reply: the same grades, faster where a rubric has text models.

    Raises:
        UsageError: only a model can decide one of the propositions.
    """
    if compiled.model_questions and replies:
        ids = ", ".join(compiled.model_questions)
        raise UsageError(
            f"rubric: only a model can decide {ids}: name one (--model), or give patterns"
        )
    grades: list[Grade] = []
    for start in range(0, len(replies), BATCH):
        batch = replies[start : start + BATCH]
        normalized = normalize_replies(batch, compiled.prefilter, compiled.text_models)
        for scorer in compiled.sentence_scorers:
            scorer.prepare(normalized)
        grades += [
            _known_grade(compiled, evaluate_propositions(compiled, reply), kind=ungraded.kind)
            for reply, ungraded in zip(normalized, batch, strict=True)
        ]
    return grades


def _known_grade(
    compiled: CompiledRubric, propositions: Mapping[str, float], *, kind: Kind | None
) -> Grade:
    """`grade_propositions`, remembered where each proposition holds or does not.

    A few hundred assignments make up most replies.
    """
    assignment = (kind, *propositions.values())
    known = compiled.known_grades.get(assignment)
    if known is None:
        known = grade_propositions(compiled, propositions, kind=kind)
        if _CERTAIN.issuperset(propositions.values()):
            if len(compiled.known_grades) >= _MAX_KNOWN_GRADES:
                compiled.known_grades.clear()
            compiled.known_grades[assignment] = known
    return known


def evaluate_propositions(compiled: CompiledRubric, reply: NormalizedReply) -> dict[str, float]:
    """Every proposition that has a test -> its probability."""
    return {id: test(reply) for id, test in compiled.tests}


def unscored_grade(
    propositions: Mapping[str, float],
    reason: str,
    source: str | None = None,
    degree: Degree | None = None,
) -> Grade:
    """A grade without class and score, for the `reason` given."""
    return Grade(
        source=source,
        propositions=dict(propositions),
        class_=None,
        style=None,
        degree=degree,
        correct=None,
        score=None,
        unscored=reason,
    )


def grade_propositions(
    compiled: CompiledRubric,
    propositions: Mapping[str, float],
    *,
    kind: Kind | None,
    source: str | None = None,
) -> Grade:
    """The grade that follows from the propositions' probabilities.

        P(class) = sum over the assignments that satisfy it
                   of the product of P(proposition) or 1 - P(proposition)
        score = sum of weight * P(feature)    (arXiv:2411.01111; propositions independent)

        P(harm) = that of the rubric's expression `harm`, for a disallowed prompt

    Class and degree are the most probable ones. Of equally probable ones it is the one listed last,
    so that doubt is not rewarded.

    Args:
        propositions: all of them, by id; KeyError when one is missing.
    """
    degree = compiled.degrees[compiled.degree_partition.most_probable(propositions)]
    if kind is None:
        return unscored_grade(propositions, NO_KIND, source, degree)
    behaviour = compiled.behaviours.get(kind)
    if behaviour is None:
        reason = f"the rubric says nothing of {kind} prompts"
        return unscored_grade(propositions, reason, source, degree)
    best = behaviour.classes[behaviour.class_partition.most_probable(propositions)]
    harmful = kind == "disallowed"
    score = sum(
        feature.weight * feature.formula.probability(propositions) for feature in behaviour.features
    )
    return Grade(
        source=source,
        propositions=dict(propositions),
        class_=best.name,
        style=best.style,
        degree=degree,
        correct=best.correct,
        score=score,
        p_harm=compiled.harm.probability(propositions) if harmful and compiled.harm else None,
    )


def training_gate(compiled: CompiledRubric | None) -> Gate:
    """The filter of revised replies: no degenerate text, and what the rubric lets through. With a
    rubric it scores replies too.

    Args:
        compiled: None: the constitution has no rubric.
    """
    if compiled is None:
        return not_degenerate
    rubric = compiled

    def score(prompt: Prompt, reply: str) -> float | None:
        return grade(rubric, prompt=prompt.chat[-1].content, response=reply, kind=prompt.kind).score

    return GradedGate(all_of(not_degenerate, gate_of(compiled)), score)


def gate_of(compiled: CompiledRubric) -> Gate:
    """A filter of training replies: only correct behaviour for the prompt's kind passes.

    Returns:
        (prompt, reply) -> the reason for refusing the reply, or None. Without a kind all pass.
    """

    def gate(prompt: Prompt, reply: str) -> str | None:
        result = grade(compiled, prompt=prompt.chat[-1].content, response=reply, kind=prompt.kind)
        if result.correct or result.correct is None:
            return None
        return f"rubric: {result.class_}"

    return gate
