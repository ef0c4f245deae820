"""Compiling a rubric: from the written form to one that is proved and ready to grade.

Every expression becomes a truth table over the base propositions that it depends on. The classes
of a behaviour, and the degrees of refusal, must be *exclusive* (no two hold at once) and
*exhaustive* (one always holds). This is proved by enumerating all assignments; where it fails, a
counterexample is given in words.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

import numpy as np

from cai.constitution.schema import Rubric
from cai.errors import ConfigError
from cai.records import Degree
from cai.rubric.expression import MAX_NAMES, Node, names_in, parse
from cai.rubric.fitted_tests import FittedTests
from cai.rubric.grade import Behaviour, Class, CompiledRubric, Feature
from cai.rubric.patterns import check_total_work
from cai.rubric.prefilter import prefilter_of
from cai.rubric.propositions import PromptPatterns, PropositionTest, ReplyPatterns, compile_test
from cai.rubric.sentence_model import SentenceTest
from cai.rubric.text_classifier import ClassifierTest
from cai.rubric.text_models import TextModels
from cai.rubric.truth_table import (
    Definitions,
    Formula,
    coverage_gaps,
    partition,
    partition_errors,
)


def compile_rubric(rubric: Rubric) -> CompiledRubric:
    """The rubric, ready to grade.

    Raises:
        ConfigError: the key of the first mistake, and how many more there are.
    """
    findings = _Findings()
    parts = _compile_parts(rubric, findings)
    if findings.errors:
        others = len(findings.errors) - 1
        more = f" (and {others} more)" if others else ""
        raise ConfigError(findings.errors[0] + more)
    questions = {id: proposition.question for id, proposition in rubric.propositions.items()}
    by_key = {
        f"rubric.propositions.{id}": (*test.patterns, *test.unless)
        for id, test in parts.tests.items()
        if isinstance(test, ReplyPatterns | PromptPatterns)
    }
    check_total_work(by_key)
    patterns = [
        pattern
        for id, test in parts.tests.items()
        if isinstance(test, ReplyPatterns)
        for pattern in by_key[f"rubric.propositions.{id}"]
    ]
    models = {
        test.index: test.model for test in parts.tests.values() if isinstance(test, ClassifierTest)
    }
    scorers = {
        id(test.scorer): test.scorer
        for test in parts.tests.values()
        if isinstance(test, SentenceTest)
    }
    return CompiledRubric(
        tests=tuple(parts.tests.items()),
        prefilter=prefilter_of(tuple(patterns)),
        text_models=TextModels(list(models.values())),
        sentence_scorers=tuple(scorers.values()),
        model_questions={
            id: question for id, question in questions.items() if id not in parts.tests
        },
        questions=questions,
        temperatures=dict(rubric.temperatures),
        degrees=tuple(parts.degrees),
        degree_partition=partition(list(parts.degrees.values())),
        behaviours={
            kind: _behaviour(rubric, name, parts) for kind, name in rubric.behaviours.items()
        },
        harm=parts.harm,
    )


def check_rubric(rubric: Rubric, inherited: Collection[str] = ()) -> list[str]:
    """All findings about the rubric, each one line that begins with its key; empty for a good one.

    Beyond what `compile_rubric` refuses: classes and degrees that can never hold, and propositions
    that nothing uses.

    Args:
        inherited: propositions that a file below may need, though this one uses them no more.
    """
    findings = _Findings(used=set(inherited))
    _compile_parts(rubric, findings)
    return findings.errors + findings.advice


@dataclass
class _Findings:
    """Mistakes and advice so far. Compiling continues after a mistake, so that all are reported."""

    errors: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    """Names that an expression or a weight mentions."""


@dataclass(frozen=True)
class _Parts:
    """The compiled parts of a rubric; complete when there are no errors."""

    tests: dict[str, PropositionTest]
    formulas: dict[str, Formula]
    """Of propositions and derived propositions."""
    classes: dict[tuple[str, str], Formula]
    """(behaviour, class) -> formula."""
    degrees: dict[Degree, Formula]
    harm: Formula | None


def _behaviour(rubric: Rubric, name: str, parts: _Parts) -> Behaviour:
    classes = tuple(
        Class(rule.name, rule.when, rule.style, rule.correct, parts.classes[name, rule.name])
        for rule in rubric.classes[name]
    )
    formulas = {rule.name: rule.formula for rule in classes} | parts.formulas
    features = tuple(
        Feature(id, weight, formulas[id]) for id, weight in rubric.weights[name].items()
    )
    return Behaviour(name, classes, partition([rule.formula for rule in classes]), features)


def _compile_parts(rubric: Rubric, findings: _Findings) -> _Parts:
    tests = _compile_tests(rubric, findings)
    definitions = _compile_derived(rubric, findings)
    formulas = {id: Formula((id,), bytes([0, 1])) for id in rubric.propositions}
    for id, node in definitions.derived.items():
        formulas[id] = _formula(node, f"rubric.derived.{id}", definitions, findings)
    classes = _compile_classes(rubric, definitions, findings)
    degrees = _compile_degrees(rubric, definitions, findings)
    _check_weights(rubric, findings)
    _check_temperatures(rubric, findings)
    harm = _compile_harm(rubric, definitions, findings)
    parts = _Parts(tests, formulas, classes, degrees, harm)
    if not findings.errors:
        findings.advice += _gaps(rubric, parts)
    for id in sorted(_known_names(rubric) - findings.used):
        section = "derived" if id in rubric.derived else "propositions"
        findings.advice.append(
            f"rubric.{section}.{id}: nothing uses it: "
            "remove it, or name it in a class or in weights"
        )
    return parts


def _compile_tests(rubric: Rubric, findings: _Findings) -> dict[str, PropositionTest]:
    tests: dict[str, PropositionTest] = {}
    models = FittedTests()
    for id, proposition in rubric.propositions.items():
        try:
            test = compile_test(id, proposition, f"rubric.propositions.{id}")
        except ConfigError as error:
            findings.errors.append(str(error))
            continue
        if test is None and proposition.fitted is not None:
            test = models.test(proposition)
        if test is not None:
            tests[id] = test
    return tests


def _compile_derived(rubric: Rubric, findings: _Findings) -> Definitions:
    """The derived propositions that are well defined, in an order of definition before use."""
    base = frozenset(rubric.propositions)
    nodes: dict[str, Node] = {}
    for id, text in rubric.derived.items():
        key = f"rubric.derived.{id}"
        if id in base:
            findings.errors.append(f"{key}: is a proposition too: give one of them another id")
            continue
        node = _parse(text, key, _known_names(rubric), findings)
        if node is not None:
            nodes[id] = node
    graph = {id: names_in(node) & nodes.keys() for id, node in nodes.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        cycle = error.args[1]
        path = " -> ".join(reversed(cycle))
        findings.errors.append(f"rubric.derived.{cycle[0]}: defined by itself: {path}")
        return Definitions(base, {})
    derived: dict[str, Node] = {}
    for id in order:
        if Definitions(base, derived).defines(nodes[id]):  # else reported above, at the name
            derived[id] = nodes[id]
    return Definitions(base, derived)


def _compile_classes(
    rubric: Rubric, definitions: Definitions, findings: _Findings
) -> dict[tuple[str, str], Formula]:
    for kind, behaviour in rubric.behaviours.items():
        if not rubric.classes.get(behaviour):
            hint = _did_you_mean(behaviour, rubric.classes)
            findings.errors.append(f"rubric.behaviours.{kind}: {behaviour!r} has no classes{hint}")
    known = _known_names(rubric)
    formulas: dict[tuple[str, str], Formula] = {}
    for behaviour, rules in rubric.classes.items():
        if behaviour not in rubric.behaviours.values():
            findings.advice.append(
                f"rubric.classes.{behaviour}: no kind of prompt has this behaviour"
            )
        nodes: dict[str, Node] = {}
        for rule in rules:
            key = f"rubric.classes.{behaviour}.{rule.name}"
            if rule.name in nodes:
                findings.errors.append(
                    f"{key}: named twice: class names are unique within a behaviour"
                )
            if rule.name in known:
                findings.errors.append(
                    f"{key}: is a proposition too, so a weight would be ambiguous: "
                    "rename one of them"
                )
            node = _parse(rule.when, key, known, findings)
            if node is not None and definitions.defines(node):
                nodes[rule.name] = node
                formulas[behaviour, rule.name] = _formula(node, key, definitions, findings)
        if rules and len(nodes) == len(rules):
            _prove_partition(nodes, f"rubric.classes.{behaviour}", "class", definitions, findings)
    return formulas


def _compile_degrees(
    rubric: Rubric, definitions: Definitions, findings: _Findings
) -> dict[Degree, Formula]:
    known = _known_names(rubric)
    nodes: dict[str, Node] = {}
    formulas: dict[Degree, Formula] = {}
    for degree, text in rubric.degrees.items():
        key = f"rubric.degrees.{degree}"
        node = _parse(text, key, known, findings)
        if node is not None and definitions.defines(node):
            nodes[degree] = node
            formulas[degree] = _formula(node, key, definitions, findings)
    if len(nodes) == len(rubric.degrees):
        _prove_partition(nodes, "rubric.degrees", "degree", definitions, findings)
    return formulas


def _compile_harm(rubric: Rubric, definitions: Definitions, findings: _Findings) -> Formula | None:
    if rubric.harm is None:
        return None
    node = _parse(rubric.harm, "rubric.harm", _known_names(rubric), findings)
    if node is None or not definitions.defines(node):
        return None
    return _formula(node, "rubric.harm", definitions, findings)


def _check_weights(rubric: Rubric, findings: _Findings) -> None:
    for behaviour in dict.fromkeys(rubric.behaviours.values()):
        if not rubric.weights.get(behaviour):
            findings.errors.append(
                f"rubric.weights.{behaviour}: missing or empty: without weights there is no score"
            )
    for behaviour, weights in rubric.weights.items():
        if behaviour not in rubric.classes:
            hint = _did_you_mean(behaviour, rubric.classes)
            findings.errors.append(f"rubric.weights.{behaviour}: no such behaviour{hint}")
            continue
        known = {rule.name for rule in rubric.classes[behaviour]} | _known_names(rubric)
        for id, weight in weights.items():
            key = f"rubric.weights.{behaviour}.{id}"
            findings.used.add(id)
            if id not in known:
                hint = _did_you_mean(id, known)
                findings.errors.append(
                    f"{key}: is no class, proposition or derived proposition{hint}"
                )
            if not np.isfinite(weight):
                findings.errors.append(f"{key}: must be a finite number, is {weight}")


def _check_temperatures(rubric: Rubric, findings: _Findings) -> None:
    for id in rubric.temperatures.keys() - rubric.propositions.keys():
        hint = _did_you_mean(id, rubric.propositions)
        findings.errors.append(f"rubric.temperatures.{id}: is no proposition{hint}")


def _gaps(rubric: Rubric, parts: _Parts) -> Iterator[str]:
    names = {name: rubric.classes[name][0].name for name in rubric.behaviours.values()}
    best = {behaviour: parts.classes[behaviour, name] for behaviour, name in names.items()}
    complete = parts.degrees.get("full_compliance")
    return coverage_gaps(best, names, rubric.behaviours.get("benign"), complete)


def _parse(text: str, key: str, known: frozenset[str], findings: _Findings) -> Node | None:
    """The expression; None, and an error for each mistake, when a syntax or a name is wrong."""
    try:
        node = parse(text)
    except ConfigError as error:
        findings.errors.append(f"{key}: {error}")
        return None
    findings.used |= names_in(node)
    unknown = sorted(names_in(node) - known)
    findings.errors += [
        f"{key}: {id!r} is no proposition{_did_you_mean(id, known)}" for id in unknown
    ]
    return None if unknown else node


def _formula(node: Node, key: str, definitions: Definitions, findings: _Findings) -> Formula:
    order = definitions.base_names([node])
    if len(order) > MAX_NAMES:
        findings.errors.append(
            f"{key}: rests on {len(order)} propositions, more than the {MAX_NAMES} "
            "that can be enumerated"
        )
        return Formula((), bytes(1))
    return Formula(order, definitions.tables([node], order)[0].tobytes())


def _prove_partition(
    nodes: Mapping[str, Node], key: str, what: str, definitions: Definitions, findings: _Findings
) -> None:
    """Report counterexamples, and expressions that can never hold."""
    order = definitions.base_names(nodes.values())
    if len(order) > MAX_NAMES:
        findings.errors.append(
            f"{key}: rests on {len(order)} propositions: cannot be proved beyond {MAX_NAMES}; "
            "name fewer"
        )
        return
    tables = dict(zip(nodes, definitions.tables(nodes.values(), order), strict=True))
    findings.errors += [f"{key}: {error}" for error in partition_errors(tables, order, what)]
    findings.advice += [
        f"{key}.{name}: unreachable: no reply can be of this {what}"
        for name, table in tables.items()
        if not table.any()
    ]


def _known_names(rubric: Rubric) -> frozenset[str]:
    """Ids that expressions may mention, those whose definition has a mistake included."""
    return frozenset(rubric.propositions) | rubric.derived.keys()


def _did_you_mean(id: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(id, sorted(known), n=1)
    return f": did you mean {close[0]!r}?" if close else ""
