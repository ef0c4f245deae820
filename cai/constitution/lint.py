"""The linter of constitutions: findings in files that are valid but probably not as intended.

Left out: the rubric's classes, which `cai.rubric` proves exclusive and exhaustive.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from cai.constitution.schema import Constitution, Principle
from cai.records import Kind

NEAR_DUPLICATE = 0.8
"""Jaccard similarity of the word shingles of two principles at which they are reported."""
SHINGLE_WORDS = 3
"""Words per shingle."""
MAX_CHARACTERS = 2000
"""Longer texts leave too little room for the reply in a small model's context."""
MAX_DUPLICATES = 1000
"""Pairs of near duplicates that are listed."""
MAX_COMPARED = 200
"""Later principles that one is compared with for each of its rare shingles."""
CONTROL_MARKS = ("<|", "[INST]", "<<SYS>>", "<start_of_turn>", "</s>")
"""Parts of chat templates, which a model may take for the end of a turn."""

WORSE = re.compile(
    r"\bwhich (?:\w+ ){0,4}?(?:is|are|seems?|sounds?|does) (?:\w+ )?"
    r"(?:worse|worst|(?:more|most) (?:harmful|dangerous|toxic|offensive|unethical|rude|racist"
    r"|sexist|biased|dishonest|evasive)"
    r"|(?:less|least) (?:helpful|harmless|honest|safe|ethical|kind|polite|wise))\b",
    re.IGNORECASE,
)
"""Questions for the worse of two replies."""

_KINDS_TO_COVER: tuple[Kind, ...] = ("disallowed", "sensitive")
"""Kinds of prompts that need a principle; benign prompts may go without."""
_WITHOUT_TEXT = {
    "critique": "cannot be drawn for revision",
    "revision": "cannot be drawn for revision",
    "compare": "cannot label pairs",
}
"""Text of a principle -> the consequence of leaving it out."""


class Finding(NamedTuple):
    """`location` is a key of `digests`, followed by the field if the finding is about one field."""

    location: str
    message: str


def lint(constitution: Constitution) -> list[Finding]:
    """All findings, check by check."""
    return [
        *_coverage(constitution),
        *_categories(constitution),
        *_unreachable(constitution),
        *_inverted_questions(constitution),
        *_missing_texts(constitution),
        *_near_duplicates(constitution),
        *_examples(constitution),
        *_texts(constitution),
    ]


def _coverage(constitution: Constitution) -> Iterator[Finding]:
    if not constitution.principles:
        if constitution.rubric is None:  # a rubric alone is a base that other files extend
            yield Finding("principles", "no principle and no rubric: add one of them")
        return
    if constitution.rubric is None:  # only a rubric tells the kinds of prompts apart
        return
    covered = {kind for principle in constitution.principles for kind in principle.applies_to}
    for kind in _KINDS_TO_COVER:
        if kind not in covered:
            yield Finding(
                "principles",
                f"no principle applies to {kind} prompts: add {kind!r} to an applies_to",
            )


def _categories(constitution: Constitution) -> Iterator[Finding]:
    if not constitution.categories:
        return
    used = {principle.category for principle in constitution.principles}
    for category in constitution.categories:
        if category not in used:
            yield Finding(
                "categories", f"no principle for {category!r}: write one, or remove the category"
            )
    for principle in constitution.principles:
        if principle.category not in constitution.categories:
            yield Finding(
                f"principle:{principle.id}",
                f"its category {principle.category!r} is not among `categories`",
            )


def _unreachable(constitution: Constitution) -> Iterator[Finding]:
    behaviours = constitution.rubric.behaviours if constitution.rubric else None
    for principle in constitution.principles:
        location = f"principle:{principle.id}.applies_to"
        if not principle.applies_to:
            yield Finding(location, "empty: the principle is never drawn")
        elif behaviours is not None and not set(principle.applies_to) & set(behaviours):
            kinds = " and ".join(principle.applies_to)
            yield Finding(
                location,
                f"the rubric has no behaviour for {kinds} prompts: replies to them are not graded",
            )


def _inverted_questions(constitution: Constitution) -> Iterator[Finding]:
    """Comparisons that ask for the worse reply. A label names the better one."""
    for principle in constitution.principles:
        match = WORSE.search(principle.compare or "")
        if match:
            yield Finding(
                f"principle:{principle.id}.compare",
                f"asks for the worse reply ({match[0]!r}), which would invert the labels: "
                "ask for the better one",
            )


def _missing_texts(constitution: Constitution) -> Iterator[Finding]:
    for principle in constitution.principles:
        missing = [name for name in _WITHOUT_TEXT if getattr(principle, name) is None]
        if missing:
            consequences = dict.fromkeys(_WITHOUT_TEXT[name] for name in missing)
            yield Finding(
                f"principle:{principle.id}",
                f"no {', no '.join(missing)} text: it {' and '.join(consequences)}",
            )


def _near_duplicates(constitution: Constitution) -> Iterator[Finding]:
    ids = [principle.id for principle in constitution.principles]
    shingles = [_shingles(principle) for principle in constitution.principles]
    findings = 0
    for first, second in _candidates(shingles):
        common = len(shingles[first] & shingles[second])
        similarity = common / (len(shingles[first]) + len(shingles[second]) - common)
        if similarity < NEAR_DUPLICATE:
            continue
        if findings == MAX_DUPLICATES:
            yield Finding(
                "principles", f"more than {MAX_DUPLICATES} pairs are nearly the same: see the first"
            )
            return
        findings += 1
        yield Finding(
            f"principle:{ids[second]}",
            f"nearly the same as {ids[first]!r} (similarity {similarity:.2f}): "
            "keep one of them, with a higher weight",
        )


def _candidates(shingles: Sequence[set[tuple[str, ...]]]) -> Iterator[tuple[int, int]]:
    """Pairs that may be near duplicates, in order.

    Two sets of a similarity t share one of the rarest `n - ceil(t n) + 1` members of each (prefix
    filtering; Chaudhuri, Ganti, Kaushik 2006), so that most pairs are never looked at.
    """
    frequency = Counter(shingle for members in shingles for shingle in members)
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    prefixes = []
    for index, members in enumerate(shingles):
        rarest = sorted(members, key=lambda shingle: (frequency[shingle], shingle))
        needed = math.ceil(NEAR_DUPLICATE * len(rarest) - 1e-9)
        prefixes.append(rarest[: len(rarest) - needed + 1])
        for shingle in prefixes[-1]:
            holders[shingle].append(index)
    for first, prefix in enumerate(prefixes):
        seconds: set[int] = set()
        for shingle in prefix:
            after = bisect_right(holders[shingle], first)
            seconds.update(holders[shingle][after : after + MAX_COMPARED])
        for second in sorted(seconds):
            yield first, second


def _shingles(principle: Principle) -> set[tuple[str, ...]]:
    """Runs of three words of all texts of a principle; fewer words are one run."""
    texts = (principle.critique, principle.revision, principle.compare)
    words = re.findall(r"\w+", " ".join(filter(None, texts)).casefold())
    if not words:
        return set()
    runs = max(1, len(words) - SHINGLE_WORDS + 1)
    return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(runs)}


def _examples(constitution: Constitution) -> Iterator[Finding]:
    examples = constitution.examples
    for i, critique in enumerate(examples.critique):
        if critique.chat[-1].role != "assistant":
            yield Finding(
                f"examples:critique.{i}.chat",
                "must end with the assistant's flawed reply, which the critique is about",
            )
    for i, grade in enumerate(examples.grade):
        if grade.chat[-1].role != "assistant":
            yield Finding(
                f"examples:grade.{i}.chat",
                "must end with the assistant's reply that the question is about",
            )
    for i, comparison in enumerate(examples.compare):
        if comparison.chat[-1].role != "user":
            yield Finding(
                f"examples:compare.{i}.chat",
                "must end with the user's turn that both replies answer",
            )
    answers = Counter(comparison.answer for comparison in examples.compare)
    if examples.compare and max(answers.values()) > 2 * min(answers["A"], answers["B"]):
        yield Finding(
            "examples:compare",
            f"answers are unbalanced (A {answers['A']}, B {answers['B']}): "
            "swap the replies of some, or the judge learns a position bias",
        )


def _texts(constitution: Constitution) -> Iterator[Finding]:
    for location, text in _all_texts(constitution):
        for mark in CONTROL_MARKS:
            if mark in text:
                yield Finding(
                    location,
                    f"contains {mark!r}, which chat templates use as a control token: remove it",
                )
        if len(text) > MAX_CHARACTERS:
            yield Finding(
                location, f"{len(text)} characters long, more than {MAX_CHARACTERS}: shorten it"
            )


def _all_texts(constitution: Constitution) -> Iterator[tuple[str, str]]:
    """(location, text) of every text that may reach a model."""
    for principle in constitution.principles:
        yield from _leaves(f"principle:{principle.id}", principle.model_dump())
    for stage, examples in constitution.examples.model_dump().items():
        yield from _leaves(f"examples:{stage}", examples)
    if constitution.rubric is not None:
        yield from _leaves("rubric", constitution.rubric.model_dump())


def _leaves(location: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield location, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{location}.{name}", inner)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _leaves(f"{location}.{index}", inner)
