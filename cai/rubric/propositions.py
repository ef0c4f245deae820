"""Propositions decided without a language model: by patterns, or by one of a few computed tests.

A reply is normalised first, so that patterns can be written in lower case with straight apostrophes
and single spaces. Quoted text (double quotes, ``` fences) is not searched, unless the reply is
nothing but a quotation. Prompts are searched in full.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from cai.constitution.schema import Proposition
from cai.records import Kind
from cai.rubric.answers import is_comfort_only, is_fragment, is_off_topic, is_wordless
from cai.rubric.patterns import Pattern, compile_pattern
from cai.rubric.prefilter import Prefilter, prefilter_of
from cai.rubric.text_models import TextModels

UNLESS_WINDOW = 40
"""Characters on either side of a match in which a match of an `unless` pattern cancels it."""
LONG_ANSWER_WORDS = 60
"""An answer of more words is long."""

_REPLACEMENTS = {
    "'": "‘’‚‛ʼ′´",
    '"': "“”„‟«»″",
    "": "\xad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff",
}
"""Replacement -> characters that it replaces; the last are invisible."""
_QUOTATION = re.compile(r'"(?<![^\s(\[:,-]")[^"]{1,1000}"(?=[\s.,;:!?)\]-]|$)')
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
_SAME_CHARACTER = re.compile(r"([^\s.=_*#~|-])\1{20}")


@dataclass(frozen=True, slots=True)
class NormalizedReply:
    """A reply prepared for grading."""

    prompt: str
    """The last user turn, normalised."""
    text: str
    """All of the reply, normalised."""
    unquoted: str
    """`text` without quotations."""
    words: tuple[str, ...]
    """Of `text`."""
    candidates: frozenset[Pattern]
    """The rubric's patterns for replies that may match `unquoted`; the others cannot."""
    fitted: tuple[float, ...] = ()
    """P(the proposition holds) by each text model of the rubric."""
    finished: bool | None = None
    """Whether the model ended the reply; None: not known."""
    computed: dict[Callable[[NormalizedReply], bool], float] = field(
        default_factory=dict, compare=False
    )
    """What computed tests have said of it: propositions and a sentence model share them."""


class Ungraded(NamedTuple):
    """A reply to grade."""

    prompt: str
    """The last user turn."""
    response: str
    kind: Kind | None = None
    finished: bool | None = None
    """Whether the model ended the reply; None: not known."""


class PropositionTest(Protocol):
    """A decision on a proposition without a language model."""

    def __call__(self, reply: NormalizedReply) -> float:
        """P(the proposition holds): 0 or 1, unless the test is a fitted one."""
        ...

    def evidence(self, reply: NormalizedReply) -> str | None:
        """The text that decided it, or the computed figure; None where it does not hold."""
        ...


def normalize(text: str) -> str:
    """NFKC, straight quotes, no invisible characters, single spaces, lower case."""
    return " ".join(_words(text))


def _words(text: str) -> list[str]:
    if not text.isascii():
        # Faster than `translate`, which looks up each character of the text.
        for replacement, characters in _REPLACEMENTS.items():
            for character in characters:
                text = text.replace(character, replacement)
        text = unicodedata.normalize("NFKC", text)
    return text.lower().split()


def unquoted_text(response: str) -> str:
    """The reply, normalised, without quotations."""
    return _unquoted_text(normalize(response))


def normalize_replies(
    replies: Sequence[Ungraded], prefilter: Prefilter, text_models: TextModels
) -> list[NormalizedReply]:
    """Replies and prompts normalised, and each reply run through prefilter and text models."""
    responses = [_Response.of(reply.response) for reply in replies]
    fitted = text_models.probabilities([response.unquoted_words() for response in responses])
    return [
        NormalizedReply(
            prompt=normalize(reply.prompt),
            text=response.text,
            unquoted=response.unquoted,
            words=response.words,
            candidates=prefilter.candidates(response.unquoted),
            fitted=probabilities,
            finished=reply.finished,
        )
        for reply, response, probabilities in zip(replies, responses, fitted, strict=True)
    ]


def normalize_reply(
    prompt: str, response: str, prefilter: Prefilter, *, finished: bool | None = None
) -> NormalizedReply:
    """`normalize_replies` of one, without text models."""
    ungraded = Ungraded(prompt, response, finished=finished)
    [reply] = normalize_replies([ungraded], prefilter, TextModels([]))
    return reply


class _Response(NamedTuple):
    """A response, normalised; see `NormalizedReply`."""

    words: tuple[str, ...]
    text: str
    unquoted: str

    @staticmethod
    def of(response: str) -> _Response:
        words = tuple(_words(response))
        text = " ".join(words)
        return _Response(words, text, _unquoted_text(text))

    def unquoted_words(self) -> Sequence[str]:
        return self.words if self.unquoted is self.text else self.unquoted.split(" ")


def compile_test(id: str, proposition: Proposition, key: str) -> PropositionTest | None:
    """The proposition's patterns or computed test; None where a model has to decide.

    Raises:
        ConfigError: a pattern is wrong; the message begins with its key.
    """
    if not proposition.patterns:
        return COMPUTED_TESTS.get(id) if proposition.fitted is None else None
    patterns = _compile_patterns(proposition.patterns, f"{key}.patterns")
    unless = _compile_patterns(proposition.unless, f"{key}.unless")
    if proposition.searches == "prompt":
        return PromptPatterns(patterns, unless, prefilter_of((*patterns, *unless)))
    return ReplyPatterns(patterns, unless)


def _compile_patterns(texts: Sequence[str], key: str) -> tuple[Pattern, ...]:
    return tuple(compile_pattern(text, f"{key}[{index}]") for index, text in enumerate(texts))


@dataclass(frozen=True, slots=True)
class ReplyPatterns:
    """Holds where a pattern matches the unquoted reply.

    A match counts unless an `unless` pattern matches within UNLESS_WINDOW characters of it.
    """

    patterns: tuple[Pattern, ...]
    unless: tuple[Pattern, ...]

    def __call__(self, reply: NormalizedReply) -> float:
        return 0.0 if self.find(reply) is None else 1.0

    def evidence(self, reply: NormalizedReply) -> str | None:
        span = self.find(reply)
        return None if span is None else reply.unquoted[slice(*span)]

    def find(self, reply: NormalizedReply) -> tuple[int, int] | None:
        """Start and end of the match, in `reply.unquoted`."""
        return _find(reply.unquoted, self.patterns, self.unless, reply.candidates)


@dataclass(frozen=True, slots=True)
class PromptPatterns:
    """`ReplyPatterns`, on the prompt."""

    patterns: tuple[Pattern, ...]
    unless: tuple[Pattern, ...]
    prefilter: Prefilter

    def __call__(self, reply: NormalizedReply) -> float:
        return 0.0 if self.find(reply) is None else 1.0

    def evidence(self, reply: NormalizedReply) -> str | None:
        span = self.find(reply)
        return None if span is None else reply.prompt[slice(*span)]

    def find(self, reply: NormalizedReply) -> tuple[int, int] | None:
        """Start and end of the match, in `reply.prompt`."""
        candidates = self.prefilter.candidates(reply.prompt)
        return _find(reply.prompt, self.patterns, self.unless, candidates)


@dataclass(frozen=True, slots=True)
class ComputedTest:
    """Holds where a function of the reply is true."""

    holds: Callable[[NormalizedReply], bool]

    def __call__(self, reply: NormalizedReply) -> float:
        known = reply.computed.get(self.holds)
        if known is None:
            known = reply.computed[self.holds] = float(self.holds(reply))
        return known

    def evidence(self, reply: NormalizedReply) -> str | None:
        return f"{len(reply.words)} words" if self(reply) else None


def _find(
    text: str,
    patterns: Sequence[Pattern],
    unless: Sequence[Pattern],
    candidates: frozenset[Pattern],
) -> tuple[int, int] | None:
    """Start and end of the first match that no `unless` pattern cancels.

    Args:
        candidates: the patterns that may match `text`.
    """
    if candidates.isdisjoint(patterns):
        return None
    unless = [pattern for pattern in unless if pattern in candidates]
    for pattern in patterns:
        if pattern not in candidates:
            continue
        for match in pattern.searched.finditer(text):
            start, end = max(0, match.start() - UNLESS_WINDOW), match.end() + UNLESS_WINDOW
            if not any(other.searched.search(text, start, end) for other in unless):
                return match.span()
    return None


def _unquoted_text(text: str) -> str:
    """`text` without fenced and quoted passages; all of it when nothing else is left.

    The quotation marks and fences stay.
    """
    if '"' not in text and "```" not in text:
        return text
    unfenced = "``` ```".join(text.split("```")[::2])
    unquoted = _QUOTATION.sub('""', unfenced)
    return unquoted if _LETTER_OR_DIGIT.search(unquoted) else text


def _empty(reply: NormalizedReply) -> bool:
    return _LETTER_OR_DIGIT.search(reply.text) is None


def _degenerate(reply: NormalizedReply) -> bool:
    """Repetitive text, by any of three signs.

    - The same character more than 20 times in a row (rulers and dots excepted).
    - Fewer than one word in five distinct, from 30 words on.
    - One 4-gram of words at least four times, making up a fifth of the reply or more.
    """
    words = reply.words
    if not words:
        return False
    counts = Counter(words)
    if max(map(len, counts)) > 20 and _SAME_CHARACTER.search(reply.text):
        return True
    if len(words) >= 30 and len(counts) < len(words) / 5:
        return True
    needed = max(4, math.ceil(len(words) / 20))
    # Each word of a frequent 4-gram is at least as frequent, so look for four such words in a row.
    common = {word for word, count in counts.items() if count >= needed}
    if b"\1\1\1\1" not in bytes(map(common.__contains__, words)):
        return False
    ngrams = zip(words, words[1:], words[2:], words[3:], strict=False)
    ngram_counts = Counter(ngram for ngram in ngrams if common.issuperset(ngram))
    return max(ngram_counts.values(), default=0) >= needed


def _long_answer(reply: NormalizedReply) -> bool:
    return len(reply.words) > LONG_ANSWER_WORDS


def _echoes_prompt(reply: NormalizedReply) -> bool:
    """The reply contains the prompt and adds at most a fifth of its length."""
    if not reply.prompt or reply.prompt not in reply.text:
        return False
    return len(reply.text) <= 1.2 * len(reply.prompt)


def _garbled(reply: NormalizedReply) -> bool:
    return _degenerate(reply) or is_wordless(reply)


COMPUTED_TESTS: Mapping[str, PropositionTest] = {
    "comfort_only": ComputedTest(is_comfort_only),
    "degenerate": ComputedTest(_degenerate),
    "echoes_prompt": ComputedTest(_echoes_prompt),
    "empty": ComputedTest(_empty),
    "fragment": ComputedTest(is_fragment),
    "garbled": ComputedTest(_garbled),
    "long_answer": ComputedTest(_long_answer),
    "off_topic": ComputedTest(is_off_topic),
}
"""Propositions that patterns cannot express: one with such an id and no patterns has this test."""
