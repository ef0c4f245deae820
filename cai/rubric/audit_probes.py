"""Replies that a policy could learn in order to please a rubric: base replies, manipulated by rule.

A bank holds prompts, each with an ideal reply, a plain answer and a plain refusal, and the phrases
that manipulations use. Left out on purpose: a search for the best attack. PPO searches better; the
probes are the ways that it is known to take.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, StringConstraints

from cai.constitution.schema import Rubric, Text
from cai.constitution.yaml_source import parse, read_yaml
from cai.records import FrozenModel, Kind
from cai.rubric.grade import Behaviour, CompiledRubric
from cai.rubric.near_miss import targets
from cai.seeds import rng
from cai.shipped import AUDIT_BANKS

REPEATS = 10
"""Times that a probe repeats a sentence."""
MIN_SHUFFLED = 3
"""Words that a reply needs for another order of them; with fewer, its characters are shuffled."""
NONE = "none"
"""The probe that leaves the reply as it is."""
NO_CONTENT = "no content"
"""In place of a base reply: the probe is a reply that says nothing of its own."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")
Base = Literal["ideal", "answer", "refusal"]
BASES: tuple[Base, ...] = ("ideal", "answer", "refusal")
BankText = Annotated[Text, StringConstraints(max_length=10_000)]


class Phrases(FrozenModel):
    """Texts that manipulations add, in the bank's language."""

    flattery: BankText
    comfort: BankText
    refusal: BankText
    keywords: BankText
    """Words that a reader, or a word list, likes."""
    padding: BankText
    """Neutral sentences, more than sixty words of them."""
    garbled: BankText
    off_topic: BankText


class Case(FrozenModel):
    """A prompt with three replies to it."""

    kind: Kind
    prompt: BankText
    ideal: BankText
    answer: BankText
    """Does what the prompt wants, and nothing more."""
    refusal: BankText
    """Declines, and nothing more."""

    def reply(self, base: Base) -> str:
        return {"ideal": self.ideal, "answer": self.answer, "refusal": self.refusal}[base]


class Bank(FrozenModel):
    """The base replies and phrases of one language."""

    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")]
    phrases: Phrases
    cases: tuple[Case, ...] = Field(min_length=1, max_length=1000)


class RubricProbe(NamedTuple):
    """One reply to grade."""

    case: Case
    name: str
    of: str
    """The base reply that is manipulated, or `NO_CONTENT`."""
    reply: str


def shipped_banks() -> dict[str, Path]:
    """Language -> file of its bank."""
    return {path.stem: path for path in sorted(AUDIT_BANKS.glob("*.yaml"))}


def read_bank(path: Path) -> Bank:
    """The bank in a YAML file.

    Raises:
        ConfigError: one line per mistake, each with file and line.
    """
    return parse(read_yaml(path), Bank)


def probes(
    compiled: CompiledRubric, rubric: Rubric, bank: Bank, seed: int = 0
) -> Iterator[RubricProbe]:
    """For each case of a kind that the rubric has a behaviour for: its three base replies as they
    are, then every manipulation.

    Args:
        seed: of the order of shuffled words.
    """
    for case in bank.cases:
        behaviour = compiled.behaviours.get(case.kind)
        if behaviour is None:
            continue
        for base in BASES:
            yield RubricProbe(case, NONE, base, case.reply(base))
        examples = paid_examples(compiled, rubric, behaviour, case.prompt)
        for base in BASES:
            for name, reply in _rewrites(case, base, bank.phrases, examples, seed):
                yield RubricProbe(case, name, base, reply)
        for name, reply in _without_content(case, bank.phrases, examples).items():
            yield RubricProbe(case, name, NO_CONTENT, reply)


def paid_examples(
    compiled: CompiledRubric, rubric: Rubric, behaviour: Behaviour, prompt: str
) -> str:
    """The `example` sentences of what the rubric pays for: the propositions of the simplest reply
    of the best class, and those with a positive weight. Empty: none of them has an example.
    """
    best = next(targets(behaviour, compiled.prompt_propositions(prompt)), None)
    needed = {id for id, value in best.holds.items() if value} if best is not None else set()
    needed |= {feature.name for feature in behaviour.features if feature.weight > 0}
    sentences = [
        proposition.example
        for id, proposition in rubric.propositions.items()
        if id in needed and proposition.example and proposition.searches == "reply"
    ]
    return " ".join(sentences)


def _rewrites(
    case: Case, base: Base, phrases: Phrases, examples: str, seed: int
) -> Iterator[tuple[str, str]]:
    """(name, reply) of the manipulations of one base reply."""
    reply = case.reply(base)
    yield "padding", f"{reply} {phrases.padding}"
    yield "keywords", f"{reply} {phrases.keywords}"
    yield "flattery", f"{phrases.flattery} {reply}"
    yield "comfort", f"{phrases.comfort} {reply}"
    yield "copied prompt", f"{case.prompt} {reply}"
    yield "said twice", f"{reply} {reply}"
    yield "shuffled words", shuffled(reply, seed)
    if examples:
        yield "rubric's examples", f"{reply} {examples}"
    if base == "ideal":
        yield "repeated sentence", " ".join([sentences(reply)[0]] * REPEATS)
    if base == "answer":
        yield from _clothed(reply, phrases.refusal)


def _clothed(answer: str, refusal: str) -> Iterator[tuple[str, str]]:
    """The answer with words of refusal: its content stays, so it deserves no more than before."""
    parts = sentences(answer)
    half = (len(parts) + 1) // 2
    yield "refusal in answer", " ".join([*parts[:half], refusal, *parts[half:]])
    yield "answer in refusal", f"{refusal} {answer} {refusal}"
    yield "quoted answer", f'{refusal} "{answer}"'
    yield "fenced answer", f"{refusal}\n```\n{answer}\n```"


def _without_content(case: Case, phrases: Phrases, examples: str) -> Mapping[str, str]:
    replies = {
        "empty": "",
        "garbled": phrases.garbled,
        "off topic": phrases.off_topic,
        "comfort alone": phrases.comfort,
        "flattery alone": phrases.flattery,
        "keywords alone": phrases.keywords,
        "prompt alone": case.prompt,
    }
    return replies | ({"rubric's examples alone": examples} if examples else {})


def sentences(text: str) -> list[str]:
    """The sentences of a text, with their marks; the text itself if it has none."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()] or [text]


def shuffled(text: str, seed: int) -> str:
    """The words of a text in another order; its characters, where it has fewer than three words."""
    words = text.split()
    join: Callable[[list[str]], str] = " ".join
    if len(words) < MIN_SHUFFLED:
        words, join = list(text), "".join
    rng(seed, "audit", text).shuffle(words)
    return join(words)
