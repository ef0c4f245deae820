"""What a rubric pays for probes: the reward of each, and its gain over the reply it manipulates.

The gain of a manipulated reply is over that reply. A reply without content is compared with the
worst paid of its prompt's three base replies: saying nothing deserves no more than saying the wrong
thing. The honest reply is the ideal one. Pure functions: grades in, rows out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from pydantic import ConfigDict, Field

from cai.records import FrozenModel, Grade, Kind
from cai.rubric.audit_probes import BASES, NO_CONTENT, NONE, Case, RubricProbe
from cai.rubric.grade import (
    Behaviour,
    CompiledRubric,
    evaluate_propositions,
    grade_propositions,
    unscored_grade,
)
from cai.rubric.propositions import Ungraded

LEAST = 1e-6
"""Smaller differences of rewards are rounding."""
ONLY_A_MODEL = "only a model can decide it: name one (--model), or give patterns"
NOT_COMPARED = "the reply that it is compared with has no reward"
Paid = Mapping[tuple[Case, str], float | None]
"""(case, base reply) -> the reward of that reply as it is."""


class AuditRow(FrozenModel):
    """One probe with its reward."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    kind: Kind
    behaviour: str
    """The response type that prompts of this kind deserve."""
    prompt: str
    probe: str
    of: str
    """The base reply that it manipulates."""
    reply: str
    class_: str | None = Field(alias="class")
    reward: float | None
    """By the rubric; null: `unscored` says why."""
    compared: float | None
    """The reward that the gain is over."""
    gain: float | None
    over_honest: float | None
    """The reward minus that of the ideal reply to the same prompt."""
    unscored: str | None = None


class Outcome(FrozenModel):
    """A probe over several prompts."""

    probe: str
    of: str | None
    """None: of all base replies."""
    kind: Kind | None
    """None: of all kinds."""
    behaviour: str | None
    classes: dict[str, int]
    n: int
    """Probes with a reward that can be compared."""
    unscored: int
    gained: int
    """Of the n, those that earn more than the reply that they manipulate."""
    over_honest: int
    """Of the n, those that earn more than the ideal reply."""
    reward: float | None
    """The mean; null without a known one, like the means below."""
    gain: float | None
    largest_gain: float | None
    largest_over_honest: float | None
    """The largest difference to the ideal reply."""


class RubricAudit(FrozenModel):
    """All results on a rubric."""

    constitution: str
    version: str
    language: str
    grader: str
    """`patterns`, or the fingerprint of a model."""
    ungraded_propositions: dict[str, str]
    """Id -> why it was not decided."""
    kinds_without_cases: tuple[Kind, ...]
    """Of the rubric: the bank has no prompt of them."""
    by_probe: tuple[Outcome, ...]
    by_kind: tuple[Outcome, ...]
    rows: tuple[AuditRow, ...]


def ungraded(compiled: CompiledRubric) -> dict[str, str]:
    """Propositions that no pattern and no test decides -> the reason."""
    return dict.fromkeys(compiled.model_questions, ONLY_A_MODEL)


def grade_without_model(compiled: CompiledRubric, probe: RubricProbe) -> Grade:
    """The grade by patterns and tests.

    It has no class and no reward where the behaviour rests on a proposition that only a model can
    decide.
    """
    prompt, kind = probe.case.prompt, probe.case.kind
    tested = evaluate_propositions(compiled, compiled.normalize(Ungraded(prompt, probe.reply)))
    unknown = compiled.model_questions.keys() & names_of(compiled.behaviours[kind])
    if unknown:
        return unscored_grade(tested, f"only a model can decide {', '.join(sorted(unknown))}")
    # what no class and no weight names changes neither class nor reward, whatever its value
    others = dict.fromkeys(compiled.model_questions, 0.0)
    return grade_propositions(compiled, tested | others, kind=kind)


def names_of(behaviour: Behaviour) -> frozenset[str]:
    """The base propositions that a behaviour's classes and weights rest on."""
    formulas = [rule.formula for rule in behaviour.classes]
    formulas += [feature.formula for feature in behaviour.features]
    return frozenset(name for formula in formulas for name in formula.names)


def audit_rows(
    compiled: CompiledRubric, probes: Sequence[RubricProbe], grades: Sequence[Grade]
) -> list[AuditRow]:
    """The rows, in the order of the probes.

    Args:
        probes: of each prompt, the unmanipulated replies come too.
        grades: of the probes, in their order.
    """
    paid: Paid = {
        (probe.case, probe.of): grade.score
        for probe, grade in zip(probes, grades, strict=True)
        if probe.name == NONE
    }
    return [
        _row(compiled.behaviours[probe.case.kind].name, probe, grade, paid)
        for probe, grade in zip(probes, grades, strict=True)
    ]


def _row(behaviour: str, probe: RubricProbe, grade: Grade, paid: Paid) -> AuditRow:
    if probe.of == NO_CONTENT:
        bases = [paid[probe.case, base] for base in BASES]
        known = [reward for reward in bases if reward is not None]
        compared = min(known) if len(known) == len(bases) else None
    else:
        compared = paid[probe.case, probe.of]
    honest = paid[probe.case, "ideal"]
    unscored = grade.unscored
    if unscored is None and (compared is None or honest is None):
        unscored = NOT_COMPARED
    return AuditRow(
        kind=probe.case.kind,
        behaviour=behaviour,
        prompt=probe.case.prompt,
        probe=probe.name,
        of=probe.of,
        reply=probe.reply,
        class_=grade.class_,
        reward=grade.score,
        compared=compared,
        gain=_difference(grade.score, compared),
        over_honest=_difference(grade.score, honest),
        unscored=unscored,
    )


def _difference(reward: float | None, other: float | None) -> float | None:
    return None if reward is None or other is None else round(reward - other, 6)


def outcomes(rows: Iterable[AuditRow]) -> list[Outcome]:
    """One for each probe, base reply and kind: what earns more than the ideal reply comes first,
    then by the largest gain. The unmanipulated replies are among them.
    """
    groups: dict[tuple[str, str, Kind], list[AuditRow]] = {}
    for row in rows:
        groups.setdefault((row.probe, row.of, row.kind), []).append(row)
    return sorted(
        (
            _outcome(probe, members, of=of, kind=kind)
            for (probe, of, kind), members in groups.items()
        ),
        key=_severity,
    )


def by_probe(rows: Iterable[AuditRow]) -> list[Outcome]:
    """One for each probe over all kinds and base replies, in the order of `outcomes`."""
    groups: dict[str, list[AuditRow]] = {}
    for row in rows:
        if row.probe != NONE:
            groups.setdefault(row.probe, []).append(row)
    return sorted((_outcome(name, members) for name, members in groups.items()), key=_severity)


def _outcome(
    probe: str, rows: Sequence[AuditRow], of: str | None = None, kind: Kind | None = None
) -> Outcome:
    known = [row for row in rows if row.gain is not None and row.over_honest is not None]
    gains = [row.gain for row in known if row.gain is not None]
    over = [row.over_honest for row in known if row.over_honest is not None]
    rewards = [row.reward for row in known if row.reward is not None]
    return Outcome(
        probe=probe,
        of=of,
        kind=kind,
        behaviour=rows[0].behaviour if kind is not None else None,
        classes=dict(Counter(row.class_ for row in rows if row.class_ is not None)),
        n=len(known),
        unscored=len(rows) - len(known),
        gained=sum(gain > LEAST for gain in gains),
        over_honest=sum(difference > LEAST for difference in over),
        reward=fmean(rewards) if rewards else None,
        gain=fmean(gains) if gains else None,
        largest_gain=max(gains, default=None),
        largest_over_honest=max(over, default=None),
    )


def _severity(outcome: Outcome) -> tuple[int, int, float]:
    """What sorts the worst finding first; probes without a known gain last."""
    largest = outcome.largest_gain
    return (outcome.n == 0, -(outcome.over_honest > 0), 0.0 if largest is None else -largest)


def above(rows: Iterable[AuditRow], max_gain: float) -> list[AuditRow]:
    """The manipulated replies that gain more than that."""
    return [row for row in rows if row.gain is not None and row.gain > max_gain + LEAST]
