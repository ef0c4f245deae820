"""The prefilter: the patterns of a rubric that may match a reply, by one linear pass of RE2.

RE2 has neither lookarounds nor Unicode word boundaries. So each pattern is widened, from its parse
tree, into one that matches something in every text where the pattern does. Only its most selective
part is kept, without lookarounds and upper bounds, and with boundaries only where RE2 agrees on
them. A pattern that RE2 rules out cannot match; `re` decides on the others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from re import _constants as c  # type: ignore[attr-defined]  # names of the parse tree
from re import _parser as sre  # type: ignore[attr-defined]  # a second parser could disagree
from typing import Any

import re2

from cai.errors import ConfigError
from cai.rubric.patterns import Pattern

_MEMORY = 64 << 20
"""Bytes that the automaton may take. It grows with the texts, and starts again at the limit."""
_CATEGORIES = {
    c.CATEGORY_WORD: r"\pL\pN_",
    c.CATEGORY_DIGIT: r"\pN",
    c.CATEGORY_SPACE: r"\s\x0b\x1c-\x1f\x{85}\pZ",
}
_GAP = 20
"""Width of the range from which on a repeated character set is a gap between two parts."""
_ANY_CHARACTER = "(?s:.)"
_ALWAYS_MATCHES = Pattern(re.compile(""), re.compile(""), 0)
"""Part of each set, so that an empty answer of RE2 can only mean that it ran out of memory."""
_REPEATS = (c.MAX_REPEAT, c.MIN_REPEAT, c.POSSESSIVE_REPEAT)


class Prefilter:
    """Built once from patterns; gives those that a text may match.

    Raises:
        ConfigError: the patterns need more memory than RE2 may take.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self.patterns = frozenset(patterns)
        self._order = (*self.patterns, _ALWAYS_MATCHES)
        options = re2.Options()
        options.max_mem = _MEMORY
        options.log_errors = False
        self._set = re2.Set.SearchSet(options)
        try:
            for pattern in self._order:
                self._set.Add(widen(pattern.regex))
            self._set.Compile()
        except (re2.error, RecursionError) as error:
            raise ConfigError(
                "rubric: patterns too large to be searched together: use fewer or shorter ones: "
                f"{error}"
            ) from error

    def candidates(self, text: str) -> frozenset[Pattern]:
        """The patterns that may match `text`: all that do, and few others."""
        try:
            indices = self._set.Match(text.encode())
        except UnicodeEncodeError:  # RE2 takes UTF-8, which has no lone surrogates
            return self.patterns
        if indices is None:  # out of memory: even the pattern that always matches is missing
            return self.patterns
        return frozenset([self._order[index] for index in indices])


@lru_cache(maxsize=8)  # as the patterns are kept: those of one or two rubrics
def prefilter_of(patterns: tuple[Pattern, ...]) -> Prefilter:
    """The prefilter of these patterns.

    Raises:
        ConfigError: as `Prefilter`.
    """
    return Prefilter(patterns)


def widen(pattern: re.Pattern[str]) -> str:
    """A pattern in RE2's syntax that matches wherever `pattern` does."""
    if pattern.flags & re.IGNORECASE:
        return ""
    return _most_selective_part(sre.parse(pattern.pattern, pattern.flags))


def _most_selective_part(items: Any) -> str:
    """The longest part of a sequence between gaps.

    A text that matches the sequence has all its parts, so one of them is enough to rule texts out.
    To keep several would multiply the automaton's states.
    """
    if len(items) == 1:
        kind, value = items[0]
        if kind is c.BRANCH:
            return f"(?:{'|'.join(map(_most_selective_part, value[1]))})"
        if kind is c.SUBPATTERN and not value[1] & re.IGNORECASE:
            return _most_selective_part(value[3])
    gaps = [index for index, item in enumerate(items) if _is_gap(*item)]
    bounds = zip([-1, *gaps], [*gaps, len(items)], strict=True)
    parts = [items[before + 1 : after] for before, after in bounds]
    return _sequence(max(parts, key=lambda part: part.getwidth()[0]))


def _is_gap(kind: Any, value: Any) -> bool:
    """Whether the item matches a long stretch of almost any text."""
    if kind not in _REPEATS:
        return False
    least, most, body = value
    return most - least >= _GAP and len(body) == 1 and body[0][0] in (c.ANY, c.IN)


def _sequence(items: Any) -> str:
    return "".join(
        _anchor(value, items[:index], items[index + 1 :]) if kind is c.AT else _item(kind, value)
        for index, (kind, value) in enumerate(items)
    )


def _anchor(value: Any, before: Any, after: Any) -> str:
    """The start of a line, or a boundary of a word, where RE2 certainly sees one too.

    RE2 counts only ASCII letters, digits and _ as parts of words. Where one of them stands on one
    side of a boundary, what is on the other side is no part of a word for RE2 either.
    """
    if value in (c.AT_BEGINNING, c.AT_BEGINNING_STRING):
        return "(?m:^)"  # not the text's start alone: with (?m) a match may begin after a newline
    if value is c.AT_BOUNDARY and (
        _is_in_word(before, last=True) or _is_in_word(after, last=False)
    ):
        return "\\b"
    return ""


def _is_in_word(items: Any, *, last: bool) -> bool:
    """Whether each match of the items begins (or with `last` ends) with an ASCII word character."""
    for kind, value in reversed(items) if last else items:
        if kind in (c.AT, c.ASSERT, c.ASSERT_NOT):
            continue
        if kind is c.LITERAL:
            return _is_word_character(value)
        if kind is c.IN:
            return all(member is c.LITERAL and _is_word_character(code) for member, code in value)
        if kind is c.BRANCH:
            return all(_is_in_word(branch, last=last) for branch in value[1])
        if kind is c.SUBPATTERN:
            ignores_case = value[1] & re.IGNORECASE  # and then k is a match of the Kelvin sign
            return not ignores_case and _is_in_word(value[3], last=last)
        return kind in _REPEATS and value[0] > 0 and _is_in_word(value[2], last=last)
    return False


def _is_word_character(code: int) -> bool:
    return code < 128 and (chr(code).isalnum() or code == ord("_"))


def _item(kind: Any, value: Any) -> str:
    if kind is c.LITERAL:
        return _character(value)
    if kind is c.NOT_LITERAL:
        return f"[^{_character(value)}]"
    if kind is c.IN:
        return _character_set(value)
    if kind is c.BRANCH:
        return f"(?:{'|'.join(map(_sequence, value[1]))})"
    if kind is c.SUBPATTERN:
        _, flags, _, body = value
        return f"{_ANY_CHARACTER}*" if flags & re.IGNORECASE else f"(?:{_sequence(body)})"
    if kind is c.ATOMIC_GROUP:
        return f"(?:{_sequence(value)})"
    if kind in _REPEATS:
        least, most, body = value
        return f"(?:{_sequence(body)}){_quantifier(least, most)}"
    if kind in (c.AT, c.ASSERT, c.ASSERT_NOT):
        return ""
    return _ANY_CHARACTER if kind is c.ANY else f"{_ANY_CHARACTER}*"  # else: a backreference


def _quantifier(least: int, most: int) -> str:
    if most == 1:
        return "" if least else "?"
    return "+" if least else "*"


def _character_set(members: Any) -> str:
    """A set of characters.

    One that excludes a category is widened to any character: RE2's categories are larger than those
    of `re`.
    """
    negated = members[0][0] is c.NEGATE
    content = ""
    for kind, value in members[1:] if negated else members:
        if kind is c.LITERAL:
            content += _character(value)
        elif kind is c.RANGE:
            content += f"{_character(value[0])}-{_character(value[1])}"
        elif value in _CATEGORIES and not negated:
            content += _CATEGORIES[value]
        else:
            return _ANY_CHARACTER
    return f"[^{content}]" if negated else f"[{content}]"


def _character(code: int) -> str:
    return f"\\x{{{code:x}}}"
