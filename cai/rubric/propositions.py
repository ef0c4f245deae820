"""Grading one proposition without a model: by patterns, or by one of a few computed tests.

A reply is normalised first, so that patterns can be written in plain lower case with straight apostrophes and single spaces.
What the reply only quotes (double quotes, ``` fences) is not its own voice, and is not searched, unless it quotes everything;
prompts are searched whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cai.constitution.schema import Proposition
from cai.rubric.patterns import Pattern, compile_pattern
from cai.rubric.prefilter import Prefilter

WINDOW = 40
"""Characters on either side of a found pattern in which an `unless` pattern takes the finding back."""
LONG = 60
"""Words beyond which an answer is long."""

_PLAIN = {"'": "‘’‚‛ʼ′´", '"': "“”„‟«»″", "": "\xad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"}
"""What is written in place of which characters; the last are invisible."""
_QUOTATION = re.compile(r'"(?<![^\s(\[:,-]")[^"]{1,1000}"(?=[\s.,;:!?)\]-]|$)')
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
_SAME_CHARACTER = re.compile(r"([^\s.=_*#~|-])\1{20}")


@dataclass(frozen=True, slots=True)
class NormalizedReply:
    """A reply made ready for grading."""

    prompt: str
    """The last user turn, normalised."""
    text: str
    """All of the reply, normalised."""
    unquoted: str
    """What the reply says itself, without what it quotes."""
    words: tuple[str, ...]
    """Of `text`."""
    candidates: frozenset[Pattern]
    """The rubric's patterns for replies that may be found in `unquoted`; those left out cannot."""


class Test(Protocol):
    """What decides a proposition without a model."""

    def __call__(self, reply: NormalizedReply) -> float:
        """P(the proposition holds): 0 or 1, unless the test is a fitted one."""
        ...

    def evidence(self, reply: NormalizedReply) -> str | None:
        """The text because of which it holds, or what was computed; None where it does not hold."""
        ...


def normalize(text: str) -> str:
    """NFKC, straight quotes, no invisible characters, single spaces, lower case."""
    return " ".join(_words(text))


def _words(text: str) -> list[str]:
    if not text.isascii():
        for plain, odd in _PLAIN.items():  # faster than `translate`, which asks its table for each character
            for character in odd:
                text = text.replace(character, plain)
        text = unicodedata.normalize("NFKC", text)
    return text.lower().split()


def unquoted_text(response: str) -> str:
    """What the reply says itself, normalised."""
    return _unquoted_text(normalize(response))


def read_reply(prompt: str, response: str, sieve: Prefilter) -> NormalizedReply:
    """Both normalised, and the reply searched for all patterns at once."""
    words = tuple(_words(response))
    text = " ".join(words)
    voice = _unquoted_text(text)
    return NormalizedReply(prompt=normalize(prompt), text=text, unquoted=voice, words=words, candidates=sieve.candidates(voice))


def compile_test(id: str, proposition: Proposition, key: str) -> Test | None:
    """What decides the proposition; None where only a model can.

    Raises:
        ConfigError: a pattern is wrong, with its key.
    """
    if not proposition.patterns:
        return COMPUTED.get(id) if proposition.fitted is None else None
    patterns = tuple(compile_pattern(text, f"{key}.patterns[{at}]") for at, text in enumerate(proposition.patterns))
    unless = tuple(compile_pattern(text, f"{key}.unless[{at}]") for at, text in enumerate(proposition.unless))
    return PromptPatterns(patterns, unless) if proposition.searches == "prompt" else ReplyPatterns(patterns, unless)


@dataclass(frozen=True, slots=True)
class ReplyPatterns:
    """Holds where a pattern is found in the reply's own voice, with no `unless` pattern within WINDOW characters of it."""

    patterns: tuple[Pattern, ...]
    unless: tuple[Pattern, ...]

    def __call__(self, reply: NormalizedReply) -> float:
        return 0.0 if self.find(reply) is None else 1.0

    def evidence(self, reply: NormalizedReply) -> str | None:
        span = self.find(reply)
        return None if span is None else reply.unquoted[slice(*span)]

    def find(self, reply: NormalizedReply) -> tuple[int, int] | None:
        """Where, in `reply.voice`."""
        live = reply.candidates
        if live.isdisjoint(self.patterns):
            return None
        unless = [other for other in self.unless if other in live]
        return _find(reply.unquoted, [pattern for pattern in self.patterns if pattern in live], unless)


@dataclass(frozen=True, slots=True)
class PromptPatterns:
    """As `ReplyPatterns`, of the prompt."""

    patterns: tuple[Pattern, ...]
    unless: tuple[Pattern, ...]

    def __call__(self, reply: NormalizedReply) -> float:
        return 0.0 if _find(reply.prompt, self.patterns, self.unless) is None else 1.0

    def evidence(self, reply: NormalizedReply) -> str | None:
        span = _find(reply.prompt, self.patterns, self.unless)
        return None if span is None else reply.prompt[slice(*span)]


@dataclass(frozen=True, slots=True)
class ComputedTest:
    """Holds where a function says so."""

    holds: Callable[[NormalizedReply], bool]

    def __call__(self, reply: NormalizedReply) -> float:
        return float(self.holds(reply))

    def evidence(self, reply: NormalizedReply) -> str | None:
        return f"{len(reply.words)} words" if self.holds(reply) else None


def _find(text: str, patterns: Sequence[Pattern], unless: Sequence[Pattern]) -> tuple[int, int] | None:
    """Where the first pattern is found whose finding nothing takes back."""
    for pattern in patterns:
        for found in pattern.regex.finditer(text):
            start, end = max(0, found.start() - WINDOW), found.end() + WINDOW
            if not any(other.regex.search(text, start, end) for other in unless):
                return found.span()
    return None


def _unquoted_text(text: str) -> str:
    """`text` without fenced and quoted passages (their marks stay); all of it when nothing else is left."""
    if '"' not in text and "```" not in text:
        return text
    unfenced = "``` ```".join(text.split("```")[::2])
    voice = _QUOTATION.sub('""', unfenced)
    return voice if _LETTER_OR_DIGIT.search(voice) else text


def _empty(reply: NormalizedReply) -> bool:
    return _LETTER_OR_DIGIT.search(reply.text) is None


def _degenerate(reply: NormalizedReply) -> bool:
    """Text that has fallen into repetition, by any of three signs:

    the same character more than 20 times in a row (rulers and dots excepted); fewer than one word in five distinct, from 30 words
    on; or one run of four words at least four times, making up a fifth of the reply or more.
    """
    words = reply.words
    if not words:
        return False
    if max(map(len, words)) > 20 and _SAME_CHARACTER.search(reply.text):
        return True
    counts = Counter(words)
    if len(words) >= 30 and len(counts) < len(words) / 5:
        return True
    needed = max(4, len(words) / 20)
    common = {word for word, count in counts.items() if count >= needed}  # a frequent run is made of words as frequent
    if b"\1\1\1\1" not in bytes(map(common.__contains__, words)):
        return False
    runs = Counter(run for run in zip(words, words[1:], words[2:], words[3:], strict=False) if common.issuperset(run))
    return max(runs.values(), default=0) >= needed


def _long_answer(reply: NormalizedReply) -> bool:
    return len(reply.words) > LONG


def _echoes_prompt(reply: NormalizedReply) -> bool:
    """The reply says the prompt again and adds at most a fifth of its length."""
    return bool(reply.prompt) and reply.prompt in reply.text and len(reply.text) <= 1.2 * len(reply.prompt)


COMPUTED: Mapping[str, Test] = {
    "degenerate": ComputedTest(_degenerate),
    "echoes_prompt": ComputedTest(_echoes_prompt),
    "empty": ComputedTest(_empty),
    "long_answer": ComputedTest(_long_answer),
}
"""Propositions that patterns cannot express: one of these names without patterns is decided by its test."""
