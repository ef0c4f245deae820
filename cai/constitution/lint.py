"""Lint: what a constitution may say but probably should not.

Left out: the rubric's classes, which `rubric` proves exclusive and exhaustive.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

from cai.constitution.schema import Constitution, Principle
from cai.records import Kind

NEAR_DUPLICATE = 0.8
"""Jaccard similarity of two principles' word shingles from which they count as one principle said twice."""
SHINGLE_WORDS = 3
MAX_CHARACTERS = 2000
"""Longer texts crowd the reply out of a small model's context."""
CONTROL_MARKS = ("<|", "[INST]", "<<SYS>>", "<start_of_turn>", "</s>")
"""Pieces of chat templates: a model may take them for the end of a turn."""

WORSE = re.compile(
    r"\bwhich (?:\w+ ){0,4}?(?:is|are|seems?|sounds?|does) (?:\w+ )?"
    r"(?:worse|worst|(?:more|most) (?:harmful|dangerous|toxic|offensive|unethical|rude|racist|sexist|biased|dishonest|evasive)"
    r"|(?:less|least) (?:helpful|harmless|honest|safe|ethical|kind|polite|wise))\b",
    re.IGNORECASE,
)
"""Questions for the worse of two replies."""

_GUARDED: tuple[Kind, ...] = ("disallowed", "sensitive")
_USES = {"critique": "cannot be drawn for revision", "revision": "cannot be drawn for revision", "compare": "cannot label pairs"}


class Finding(NamedTuple):
    """`where` is a key of `digests`, followed by a field where one field is meant."""

    where: str
    message: str


def lint(constitution: Constitution) -> list[Finding]:
    """Every finding, in the order of the constitution; empty when there is nothing to say."""
    return [
        *_coverage(constitution),
        *_categories(constitution),
        *_unreachable(constitution),
        *_framing(constitution),
        *_missing_texts(constitution),
        *_near_duplicates(constitution),
        *_examples(constitution),
        *_texts(constitution),
    ]


def _coverage(constitution: Constitution) -> Iterator[Finding]:
    if not constitution.principles:
        if constitution.rubric is None:  # a rubric alone is a base for others to extend
            yield Finding("principles", "no principle and no rubric: there is nothing in it")
        return
    if constitution.rubric is None:  # without a rubric nothing says what each kind of prompt deserves
        return
    covered = {kind for principle in constitution.principles for kind in principle.applies_to}
    for kind in _GUARDED:
        if kind not in covered:
            yield Finding("principles", f"no principle applies to {kind} prompts: add {kind!r} to an applies_to")


def _categories(constitution: Constitution) -> Iterator[Finding]:
    if not constitution.categories:
        return
    used = {principle.category for principle in constitution.principles}
    for category in constitution.categories:
        if category not in used:
            yield Finding("categories", f"no principle for {category!r}: write one, or take the category out")
    for principle in constitution.principles:
        if principle.category not in constitution.categories:
            yield Finding(f"principle:{principle.id}", f"its category {principle.category!r} is not among `categories`")


def _unreachable(constitution: Constitution) -> Iterator[Finding]:
    behaviours = constitution.rubric.behaviours if constitution.rubric else None
    for principle in constitution.principles:
        if not principle.applies_to:
            yield Finding(f"principle:{principle.id}.applies_to", "empty: it is never drawn")
        elif behaviours is not None and not set(principle.applies_to) & set(behaviours):
            where, kinds = f"principle:{principle.id}.applies_to", " and ".join(principle.applies_to)
            yield Finding(where, f"the rubric has no behaviour for {kinds} prompts: nothing would grade what it leads to")


def _framing(constitution: Constitution) -> Iterator[Finding]:
    """A label says which reply is better: a comparison that asks for the worse one turns it round."""
    for principle in constitution.principles:
        if principle.compare and (found := WORSE.search(principle.compare)):
            where = f"principle:{principle.id}.compare"
            yield Finding(
                where, f"asks for the worse reply ({found[0]!r}), and labels would be turned round: ask for the better one"
            )


def _missing_texts(constitution: Constitution) -> Iterator[Finding]:
    for principle in constitution.principles:
        absent = [name for name in _USES if getattr(principle, name) is None]
        if absent:
            why = " and ".join(dict.fromkeys(_USES[name] for name in absent))
            yield Finding(f"principle:{principle.id}", f"no {', no '.join(absent)} text: it {why}")


def _near_duplicates(constitution: Constitution) -> Iterator[Finding]:
    shingled = [(principle.id, shingles) for principle in constitution.principles if (shingles := _shingles(principle))]
    for (first, one), (second, other) in combinations(shingled, 2):
        alike = len(one & other) / len(one | other)
        if alike >= NEAR_DUPLICATE:
            yield Finding(
                f"principle:{second}", f"says nearly the same as {first!r} (similarity {alike:.2f}): keep one, raise its weight"
            )


def _shingles(principle: Principle) -> set[tuple[str, ...]]:
    """Runs of three words of the critique, revision and compare texts; a shorter text is one run."""
    words = re.findall(r"\w+", " ".join(filter(None, (principle.critique, principle.revision, principle.compare))).casefold())
    return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))} if words else set()


def _examples(constitution: Constitution) -> Iterator[Finding]:
    for i, worked in enumerate(constitution.examples.critique):
        if worked.chat[-1].role != "assistant":
            yield Finding(
                f"examples:critique.{i}.chat", "must end with the assistant's flawed reply, or there is nothing to criticise"
            )
    for i, asked in enumerate(constitution.examples.grade):
        if asked.chat[-1].role != "assistant":
            yield Finding(f"examples:grade.{i}.chat", "must end with the assistant's reply that the question is about")
    compare = constitution.examples.compare
    for i, pair in enumerate(compare):
        if pair.chat[-1].role != "user":
            yield Finding(f"examples:compare.{i}.chat", "must end with the user's turn that both replies answer")
    answers = Counter(pair.answer for pair in compare)
    if compare and max(answers.values()) > 2 * min(answers["A"], answers["B"]):
        yield Finding(
            "examples:compare",
            f"answers lean to one side (A {answers['A']}, B {answers['B']}): swap some, or the judge learns it",
        )


def _texts(constitution: Constitution) -> Iterator[Finding]:
    for where, text in _walk(constitution):
        for mark in CONTROL_MARKS:
            if mark in text:
                yield Finding(where, f"contains {mark!r}, which chat templates use as a control token: remove it")
        if len(text) > MAX_CHARACTERS:
            yield Finding(where, f"{len(text)} characters long, more than {MAX_CHARACTERS}: shorten it")


def _walk(constitution: Constitution) -> Iterator[tuple[str, str]]:
    """(where, text) of every text that may reach a model."""
    for principle in constitution.principles:
        yield from _leaves(f"principle:{principle.id}", principle.model_dump())
    for stage, examples in constitution.examples.model_dump().items():
        yield from _leaves(f"examples:{stage}", examples)
    if constitution.rubric is not None:
        yield from _leaves("rubric", constitution.rubric.model_dump())


def _leaves(where: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{where}.{name}", inner)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _leaves(f"{where}.{index}", inner)
