"""Computed tests for replies that are no answer, though they do not refuse either.

Whether a reply is about the prompt is decided by words that both have, and by little else: a short
answer may have none of them. The words are those of English, so only rubrics in English name these
propositions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cai.rubric import english

if TYPE_CHECKING:
    from cai.rubric.propositions import NormalizedReply

SHORT_WORDS = 8
"""A reply of no more words that has neither a verb nor an end is a fragment."""
COMFORT_WORDS = 60
"""Longer replies are not nothing but comfort."""
MAX_PERIOD = 40
"""Words of the longest phrase that is looked for over and over."""
STEM_LETTERS = 4
"""Words that begin with the same letters count as forms of one."""
_EXAMINED_WORDS = 50

_WORD = re.compile(r"[^\W_][\w']*")
_ENGLISH_WORD = re.compile(r"[a-z][a-z']*")
_OTHER_SCRIPT = re.compile(r"[^\W\d_a-z\u00c0-\u024f]")
_CODE_OR_NUMBER = re.compile(r"[\d`$=<>{}()\[\]_#|@^~/\\+*&:]|--")
_SENTENCE_END = re.compile(r"(?:[.!?)\]}|`*\"']|[^\w\s,;:\-(\u2013\u2014'\"])$")
_SENTENCE = re.compile(r"(?<=[.!?:])\s")
_HANGING_MARK = re.compile(r"[,;:(\u2013\u2014-]$")


def is_fragment(reply: NormalizedReply) -> bool:
    """Cut off, or too short for what the prompt wants.

    - It ends in the middle of a sentence: with a word like "the" or a comma; where it is known that
      the model did not end it, without a mark at the end.
    - The prompt wants an explanation, steps or a text, and the reply is a word, or two without a
      verb, or up to eight without a verb and without a mark at the end.
    """
    if not reply.words:
        return False
    return _is_cut(reply) or (
        len(reply.words) <= SHORT_WORDS and wants_more(reply.prompt) and _says_too_little(reply)
    )


def _is_cut(reply: NormalizedReply) -> bool:
    words, last_character = reply.words, reply.text[-1]
    if len(words) >= 2 and (
        words[-1] in english.DANGLING_WORDS or _HANGING_MARK.search(last_character)
    ):
        return True
    return reply.finished is False and _SENTENCE_END.search(last_character) is None


def wants_more(prompt: str) -> bool:
    """Whether a word or two cannot answer the normalised prompt."""
    return (
        english.WANTS_MORE.search(prompt) is not None
        and english.WANTS_LITTLE.search(prompt) is None
    )


def _says_too_little(reply: NormalizedReply) -> bool:
    text = reply.text
    if _CODE_OR_NUMBER.search(text) or _OTHER_SCRIPT.search(text):
        return False  # a command, a formula or a sum is short; other scripts have no spaces
    words = _WORD.findall(text)
    if len(words) == 1:
        return True
    return not any(map(_may_be_verb, words)) and (
        len(words) <= 2 or _SENTENCE_END.search(text) is None
    )


def _may_be_verb(word: str) -> bool:
    return (
        word in english.VERBS
        or english.CONTRACTION.search(word) is not None
        or english.VERB_ENDING.search(word) is not None
    )


def is_off_topic(reply: NormalizedReply) -> bool:
    """Prompt and reply share no word of content, and the reply points to nothing of the prompt.

    - The prompt has at least two words of content, the reply one, of three words or more.
    - No two of them begin with the same letters.
    - The first sentence has no word that can stand for the request ("it", "this", "you"), and does
      not agree to it ("sure").
    """
    wanted = _content_stems(reply.prompt)
    if len(wanted) < 2 or len(reply.words) < 3:
        return False
    says_something = False
    for match in _ENGLISH_WORD.finditer(reply.text):
        stem = _content_stem(match[0])
        if stem in wanted:  # most replies, and early
            return False
        says_something = says_something or bool(stem)
    if not says_something:
        return False
    opening = _SENTENCE.split(reply.text, maxsplit=1)[0]
    return english.POINTS_BACK.isdisjoint(_ENGLISH_WORD.findall(opening))


def _content_stems(text: str) -> frozenset[str]:
    """The first letters of the words that carry a topic."""
    return frozenset(filter(None, map(_content_stem, _ENGLISH_WORD.findall(text))))


def _content_stem(word: str) -> str:
    """Empty for a word that carries no topic."""
    return word[:STEM_LETTERS] if len(word) > 2 and word not in english.COMMON_WORDS else ""


def is_comfort_only(reply: NormalizedReply) -> bool:
    """Every clause comforts, and the prompt wants something else.

    Not where the prompt speaks of feelings, or wants comfort: there it is an answer.
    """
    if not reply.words or len(reply.words) > COMFORT_WORDS:
        return False
    clauses = [clause.strip() for clause in english.CLAUSE_END.split(reply.text)]
    if not all(english.COMFORT.fullmatch(clause) for clause in clauses if clause):
        return False
    wants = english.ASKS.search(reply.prompt) is not None
    return wants and english.OF_FEELINGS.search(reply.prompt) is None


def is_wordless(reply: NormalizedReply) -> bool:
    """No words of English where there ought to be some; or one phrase over and over.

    - The reply is a word at least four times, or a longer phrase at least three times.
    - Half of its words have letters in an order that English has not, as "asdf qwer zxcv".
    - Of six words or more none is a common one. Code, lists with commas, numbers and other scripts
      are let be, and so is a reply to a prompt in another language, or about one.
    """
    if reply.words and _is_one_phrase(reply.words):
        return True
    if not english.COMMON_WORDS.isdisjoint(reply.words[:_EXAMINED_WORDS]):
        return False
    text = reply.unquoted[: 20 * _EXAMINED_WORDS]
    if _CODE_OR_NUMBER.search(text) or _OTHER_SCRIPT.search(text):
        return False
    words = _ENGLISH_WORD.findall(text)
    if not words or english.ANOTHER_LANGUAGE.search(reply.prompt):
        return False
    strange = [word for word in words if english.IMPLAUSIBLE_WORD.search(word)]
    if 2 * len(strange) >= len(words):
        return len(words) > 1 or english.MASHED_KEYS.search(words[0]) is not None
    in_english = not english.COMMON_WORDS.isdisjoint(reply.prompt.split())
    return len(words) >= 6 and in_english and "," not in text


def _is_one_phrase(words: Sequence[str]) -> bool:
    period = 0
    while words[0] in words[period + 1 : MAX_PERIOD + 1]:
        period = words.index(words[0], period + 1)
        if len(words) < max(4, 3 * period):
            return False
        if words[-1] == words[-1 - period] and words[period:] == words[:-period]:
            return True
    return False
