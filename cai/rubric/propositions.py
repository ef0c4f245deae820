"""Grading one proposition without a model: by patterns, or by one of a few computed tests.

A reply is normalised first, so that patterns can be written in plain lower case with straight apostrophes and single spaces.
What the reply only quotes (double quotes, ``` fences) is not its own voice, and is not searched, unless it quotes everything.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from cai.constitution.schema import Proposition
from cai.errors import ConfigError
from cai.rubric.patterns import Pattern, compile_pattern

WINDOW = 40
"""Characters on either side of a found pattern in which an `unless` pattern takes the finding back."""
LONG = 60
"""Words beyond which an answer is long."""

_INVISIBLE = dict.fromkeys([0xAD, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF])
_QUOTES = {ord(curly): straight for straight, curls in {"'": "‘’‚‛ʼ′´", '"': "“”„‟«»″"}.items() for curly in curls}
_PLAIN: Mapping[int, str | None] = _INVISIBLE | _QUOTES
_QUOTATION = re.compile(r'"(?<![^\s(\[:,-]")[^"]{1,1000}"(?=[\s.,;:!?)\]-]|$)')
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
_SAME_CHARACTER = re.compile(r"([^\s.=_*#~|-])\1{20}")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply made ready for grading."""

    prompt: str
    """The last user turn, normalised."""
    text: str
    """All of the reply, normalised."""
    voice: str
    """What the reply says itself, without what it quotes."""
    words: tuple[str, ...]
    """Of `text`."""


Test = Callable[[Reply], bool]


def normalise(text: str) -> str:
    """NFKC, straight quotes, no invisible characters, single spaces, lower case."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_PLAIN))
    return " ".join(text.lower().split())


def read_reply(prompt: str, response: str) -> Reply:
    text = normalise(response)
    return Reply(prompt=normalise(prompt), text=text, voice=_own_voice(text), words=tuple(text.split(" ")) if text else ())


def compile_test(id: str, proposition: Proposition, key: str) -> Test:
    """What decides the proposition. Raises ConfigError with the key when a pattern is wrong or nothing can decide it."""
    if not proposition.patterns:
        if id in COMPUTED:
            return COMPUTED[id]
        known = ", ".join(sorted(COMPUTED))
        raise ConfigError(f"{key}: cannot be graded: give it `patterns` (only {known} are computed without any)")
    patterns = tuple(compile_pattern(text, f"{key}.patterns[{at}]") for at, text in enumerate(proposition.patterns))
    unless = tuple(compile_pattern(text, f"{key}.unless[{at}]") for at, text in enumerate(proposition.unless))
    return partial(_says, patterns, unless)


def _says(patterns: tuple[Pattern, ...], unless: tuple[Pattern, ...], reply: Reply) -> bool:
    """Whether a pattern is found in the reply's own voice, with no `unless` pattern within WINDOW characters of it."""
    voice = reply.voice
    near = [pattern.regex for pattern in unless if pattern.may_occur(voice)]
    for pattern in patterns:
        if not pattern.may_occur(voice):
            continue
        for found in pattern.regex.finditer(voice):
            start, end = max(0, found.start() - WINDOW), found.end() + WINDOW
            if not any(regex.search(voice, start, end) for regex in near):
                return True
    return False


def _own_voice(text: str) -> str:
    """`text` without fenced and quoted passages (their marks stay); all of it when nothing else is left."""
    if '"' not in text and "```" not in text:
        return text
    unfenced = "``` ```".join(text.split("```")[::2])
    voice = _QUOTATION.sub('""', unfenced)
    return voice if _LETTER_OR_DIGIT.search(voice) else text


def _empty(reply: Reply) -> bool:
    return _LETTER_OR_DIGIT.search(reply.text) is None


def _degenerate(reply: Reply) -> bool:
    """Text that has fallen into repetition, by any of three signs:

    the same character more than 20 times in a row (rulers and dots excepted); fewer than one word in five distinct, from 30 words
    on; or one run of four words at least four times, making up a fifth of the reply or more.
    """
    words = reply.words
    if not words:
        return False
    if len(max(words, key=len)) > 20 and _SAME_CHARACTER.search(reply.text):
        return True
    counts = Counter(words)
    if len(words) >= 30 and len(counts) < len(words) / 5:
        return True
    needed = max(4, len(words) / 20)
    common = {word for word, count in counts.items() if count >= needed}  # a frequent run is made of words as frequent
    if not common:
        return False
    runs = Counter(run for run in zip(words, words[1:], words[2:], words[3:], strict=False) if common.issuperset(run))
    return max(runs.values(), default=0) >= needed


def _long_answer(reply: Reply) -> bool:
    return len(reply.words) > LONG


def _echoes_prompt(reply: Reply) -> bool:
    """The reply says the prompt again and adds at most a fifth of its length."""
    return bool(reply.prompt) and reply.prompt in reply.text and len(reply.text) <= 1.2 * len(reply.prompt)


COMPUTED: Mapping[str, Test] = {
    "degenerate": _degenerate,
    "echoes_prompt": _echoes_prompt,
    "empty": _empty,
    "long_answer": _long_answer,
}
"""Propositions that patterns cannot express: one of these names without patterns is decided by its test."""
