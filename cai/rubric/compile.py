"""From a rubric as written to one that is proved and ready to grade.

Every expression becomes a truth table over the base propositions that it rests on. The classes of a behaviour, and the degrees of
refusal, must be *exclusive* (no two hold at once) and *exhaustive* (one always holds); this is proved by enumerating all
assignments, and a counterexample is given in words.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import numpy as np

from cai.constitution.schema import Rubric, TextModel
from cai.errors import ConfigError
from cai.records import Degree, Kind, Style
from cai.rubric.expression import MAX_NAMES, Node, Table, columns, names, parse, truth
from cai.rubric.prefilter import Prefilter
from cai.rubric.propositions import PromptPatterns, ReplyPatterns, Test, compile_test, read_reply
from cai.rubric.text_classifier import CachedClassifier, ClassifierTest
from cai.rubric.truth_table import Formula, Partition, coverage_gaps, partition


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
    choice: Partition
    """Of the classes' formulas."""
    features: tuple[Feature, ...]


@dataclass(frozen=True, slots=True)
class CompiledRubric:
    """A rubric that has been proved: every reply gets exactly one class and one degree."""

    tests: tuple[tuple[str, Test], ...]
    """Base propositions and what decides each."""
    prefilter: Prefilter
    """Of all patterns that look at replies."""
    asked: Mapping[str, str]
    """Base propositions that only a model can decide, and the question to ask."""
    questions: Mapping[str, str]
    """Of every base proposition."""
    temperatures: Mapping[str, float]
    """By which a model's log-odds are divided; 1 where nothing is said."""
    degrees: tuple[Degree, ...]
    degree: Partition
    """Of the degrees' formulas."""
    behaviours: Mapping[Kind, Behaviour]

    def of_prompt(self, prompt: str) -> dict[str, bool]:
        """The propositions that the last user turn decides alone, whatever the reply says."""
        reply = read_reply(prompt, "", self.prefilter)
        return {id: test(reply) > 0.5 for id, test in self.tests if isinstance(test, PromptPatterns)}


def compile_rubric(rubric: Rubric) -> CompiledRubric:
    """The rubric, ready to grade. Raises ConfigError naming the key of the first mistake, and how many more there are."""
    reading = _Reading(rubric)
    if reading.errors:
        more = f" (and {len(reading.errors) - 1} more)" if len(reading.errors) > 1 else ""
        raise ConfigError(reading.errors[0] + more)
    behaviours = {}
    for kind, name in rubric.behaviours.items():
        classes = tuple(
            Class(rule.name, rule.when, rule.style, rule.correct, reading.classes[name, rule.name])
            for rule in rubric.classes[name]
        )
        known = {c.name: c.formula for c in classes} | reading.formulas
        features = tuple(Feature(id, weight, known[id]) for id, weight in rubric.weights[name].items())
        behaviours[kind] = Behaviour(name, classes, partition([rule.formula for rule in classes]), features)
    questions = {id: proposition.question for id, proposition in rubric.propositions.items()}
    return CompiledRubric(
        tests=tuple(reading.tests.items()),
        prefilter=Prefilter(
            [p for test in reading.tests.values() if isinstance(test, ReplyPatterns) for p in (*test.patterns, *test.unless)]
        ),
        asked={id: question for id, question in questions.items() if id not in reading.tests},
        questions=questions,
        temperatures=dict(rubric.temperatures),
        degrees=tuple(reading.degrees),
        degree=partition(list(reading.degrees.values())),
        behaviours=behaviours,
    )


def check_rubric(rubric: Rubric) -> list[str]:
    """Everything wrong with the rubric, each finding one line that begins with its key; empty when it is fine.

    Beyond what `compile_rubric` refuses: classes and degrees that can never hold, and propositions that nothing uses.
    """
    reading = _Reading(rubric)
    return reading.errors + reading.advice


class _Reading:
    """One pass over a rubric that goes on after a mistake, so that all of them are reported at once."""

    def __init__(self, rubric: Rubric) -> None:
        self.errors: list[str] = []
        self.advice: list[str] = []
        self.tests: dict[str, Test] = {}
        self.formulas: dict[str, Formula] = {}
        """Propositions and derived propositions."""
        self.classes: dict[tuple[str, str], Formula] = {}
        self.degrees: dict[Degree, Formula] = {}
        self.used: set[str] = set()

        self._base = frozenset(rubric.propositions)
        self._derived: dict[str, Node] = {}
        """In an order in which each rests only on those before it."""
        self._read_propositions(rubric)
        self._read_derived(rubric)
        self._read_classes(rubric)
        self._read_degrees(rubric)
        self._read_weights(rubric)
        self._read_temperatures(rubric)
        if not self.errors:
            best = {b: self.classes[b, rubric.classes[b][0].name] for b in dict.fromkeys(rubric.behaviours.values())}
            first = {b: rubric.classes[b][0].name for b in best}
            self.advice += coverage_gaps(best, first, rubric.behaviours.get("benign"), self.degrees.get("full_compliance"))
        for id in sorted((self._base | rubric.derived.keys()) - self.used):
            place = "derived" if id in rubric.derived else "propositions"
            self.advice.append(f"rubric.{place}.{id}: nothing uses it: remove it, or name it in a class or in weights")

    def _read_propositions(self, rubric: Rubric) -> None:
        for id, proposition in rubric.propositions.items():
            self.formulas[id] = Formula((id,), bytes([0, 1]))
            try:
                test = compile_test(id, proposition, f"rubric.propositions.{id}")
                if test is None and proposition.fitted is not None:
                    test = ClassifierTest(self._scorer(proposition.fitted), proposition.above)
                if test is not None:
                    self.tests[id] = test
            except ConfigError as error:
                self.errors.append(str(error))

    def _scorer(self, model: TextModel) -> CachedClassifier:
        """One for all propositions that use the same model, so that it reads a reply once."""
        known = [t.score for t in self.tests.values() if isinstance(t, ClassifierTest) and t.score.model == model]
        return known[0] if known else CachedClassifier(model)

    def _read_derived(self, rubric: Rubric) -> None:
        nodes: dict[str, Node] = {}
        for id, text in rubric.derived.items():
            key = f"rubric.derived.{id}"
            if id in self._base:
                self.errors.append(f"{key}: is a proposition too: give one of them another id")
            elif (node := self._parse(text, key, self._base | rubric.derived.keys())) is not None:
                nodes[id] = node
        try:
            order = list(TopologicalSorter({id: names(node) & nodes.keys() for id, node in nodes.items()}).static_order())
        except CycleError as error:
            circle = " -> ".join(reversed(error.args[1]))
            self.errors.append(f"rubric.derived.{error.args[1][0]}: defined by itself: {circle}")
            return
        for id in order:
            if names(nodes[id]) <= self._base | self._derived.keys():  # else one of them is reported already
                self._derived[id] = nodes[id]
                self.formulas[id] = self._formula(nodes[id], f"rubric.derived.{id}")

    def _read_classes(self, rubric: Rubric) -> None:
        for kind, behaviour in rubric.behaviours.items():
            if not rubric.classes.get(behaviour):
                self.errors.append(f"rubric.behaviours.{kind}: {behaviour!r} has no classes{_nearest(behaviour, rubric.classes)}")
        for behaviour, rules in rubric.classes.items():
            if behaviour not in rubric.behaviours.values():
                self.advice.append(f"rubric.classes.{behaviour}: no kind of prompt has this behaviour")
            nodes: dict[str, Node] = {}
            for rule in rules:
                key = f"rubric.classes.{behaviour}.{rule.name}"
                if rule.name in nodes:
                    self.errors.append(f"{key}: named twice: class names are unique within a behaviour")
                if rule.name in self._base or rule.name in rubric.derived:
                    self.errors.append(f"{key}: is a proposition too, so a weight would be ambiguous: rename one of them")
                node = self._parse(rule.when, key, self._base | rubric.derived.keys())
                if node is not None and names(node) <= self.formulas.keys():
                    nodes[rule.name] = node
                    self.classes[behaviour, rule.name] = self._formula(node, key)
            if rules and len(nodes) == len(rules):
                self._prove_partition(nodes, f"rubric.classes.{behaviour}", "class")

    def _read_degrees(self, rubric: Rubric) -> None:
        nodes: dict[str, Node] = {}
        for degree, text in rubric.degrees.items():
            node = self._parse(text, f"rubric.degrees.{degree}", self._base | rubric.derived.keys())
            if node is not None and names(node) <= self.formulas.keys():
                nodes[degree] = node
                self.degrees[degree] = self._formula(node, f"rubric.degrees.{degree}")
        if len(nodes) == len(rubric.degrees):
            self._prove_partition(nodes, "rubric.degrees", "degree")

    def _read_weights(self, rubric: Rubric) -> None:
        for behaviour in dict.fromkeys(rubric.behaviours.values()):
            if not rubric.weights.get(behaviour):
                self.errors.append(f"rubric.weights.{behaviour}: missing or empty: without weights there is no score")
        for behaviour, weights in rubric.weights.items():
            known = {rule.name for rule in rubric.classes.get(behaviour, ())} | self._base | rubric.derived.keys()
            if behaviour not in rubric.classes:
                self.errors.append(f"rubric.weights.{behaviour}: no such behaviour{_nearest(behaviour, rubric.classes)}")
                continue
            for id, weight in weights.items():
                self.used.add(id)
                if id not in known:
                    what = "is no class, proposition or derived proposition"
                    self.errors.append(f"rubric.weights.{behaviour}.{id}: {what}{_nearest(id, known)}")
                if not np.isfinite(weight):
                    self.errors.append(f"rubric.weights.{behaviour}.{id}: must be a finite number, is {weight}")

    def _read_temperatures(self, rubric: Rubric) -> None:
        for id in rubric.temperatures.keys() - self._base:
            self.errors.append(f"rubric.temperatures.{id}: is no proposition{_nearest(id, self._base)}")

    def _parse(self, text: str, key: str, known: Iterable[str]) -> Node | None:
        """The expression; None, and an error for each mistake, when it cannot be read or names what does not exist."""
        try:
            node = parse(text)
        except ConfigError as error:
            self.errors.append(f"{key}: {error}")
            return None
        known = frozenset(known)
        self.used |= names(node)
        unknown = sorted(names(node) - known)
        self.errors += [f"{key}: {id!r} is no proposition{_nearest(id, known)}" for id in unknown]
        return None if unknown else node

    def _formula(self, node: Node, key: str) -> Formula:
        order = self._bases([node])
        if len(order) > MAX_NAMES:
            self.errors.append(f"{key}: rests on {len(order)} propositions, more than the {MAX_NAMES} that can be enumerated")
            return Formula((), bytes(1))
        return Formula(order, self._tables([node], order)[0].tobytes())

    def _prove_partition(self, nodes: Mapping[str, Node], key: str, what: str) -> None:
        """Report the first assignment under which none, and the first under which two, of the expressions hold."""
        order = self._bases(nodes.values())
        if len(order) > MAX_NAMES:
            self.errors.append(f"{key}: rests on {len(order)} propositions: cannot be proved beyond {MAX_NAMES}; name fewer")
            return
        tables = dict(zip(nodes, self._tables(nodes.values(), order), strict=True))
        count = np.sum(list(tables.values()), axis=0)
        if (count == 0).any():
            self.errors.append(f"{key}: no {what} when {_in_words(int((count == 0).argmax()), order)}")
        if (count > 1).any():
            row = int((count > 1).argmax())
            both = " and ".join(name for name, table in tables.items() if table[row])
            self.errors.append(f"{key}: {both} hold at once when {_in_words(row, order)}")
        self.advice += [
            f"{key}.{name}: unreachable: no reply can be of this {what}" for name, table in tables.items() if not table.any()
        ]

    def _bases(self, nodes: Iterable[Node]) -> tuple[str, ...]:
        """The base propositions that the expressions rest on, through derived ones, in alphabetical order."""
        seen: set[str] = set()
        todo = set().union(*map(names, nodes))
        while todo:
            id = todo.pop()
            if id not in seen:
                seen.add(id)
                todo |= names(self._derived[id]) if id in self._derived else set()
        return tuple(sorted(seen & self._base))

    def _tables(self, nodes: Iterable[Node], order: tuple[str, ...]) -> list[Table]:
        known = columns(order)
        for id, node in self._derived.items():
            if names(node) <= known.keys():
                known[id] = truth(node, known)
        return [truth(node, known) for node in nodes]


def _in_words(row: int, order: tuple[str, ...]) -> str:
    return ", ".join(name if row >> bit & 1 else f"not {name}" for bit, name in enumerate(order))


def _nearest(id: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(id, sorted(known), n=1)
    return f": did you mean {close[0]!r}?" if close else ""
