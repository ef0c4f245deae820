"""All patterns of a rubric that look at replies, searched at once: which of them may match a text, in one linear pass of RE2.

RE2 has neither lookarounds nor Unicode word boundaries, so each pattern is translated from its parse tree into one that matches
something in every text where it does: all but its most telling part, boundaries, lookarounds and upper bounds are left out. What
RE2 rules out cannot match; the rest is for `re` to decide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from re import _constants as c  # type: ignore[attr-defined]  # the parse tree's own names
from re import _parser as sre  # type: ignore[attr-defined]  # the library's own reading: a second one could disagree with it
from typing import Any

import re2

from cai.errors import ConfigError
from cai.rubric.patterns import Pattern

_MEMORY = 64 << 20
"""Bytes that the automaton may take; it grows as texts ask for it, and starts again when that is used up."""
_CATEGORIES = {c.CATEGORY_WORD: r"\pL\pN_", c.CATEGORY_DIGIT: r"\pN", c.CATEGORY_SPACE: r"\s\x0b\x1c-\x1f\x{85}\pZ"}
_GAP = 20
"""Characters from which on a repetition of one set counts as room between parts of a pattern."""
_ANYTHING = "(?s:.)"
_EVERYWHERE = Pattern(re.compile(""))
_REPEATS = (c.MAX_REPEAT, c.MIN_REPEAT, c.POSSESSIVE_REPEAT)


class Prefilter:
    """Built once from patterns; says which of them a text may hold.

    Raises:
        ConfigError: RE2 cannot hold so many or so large patterns.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self.patterns = frozenset(patterns)
        self._order = (*self.patterns, _EVERYWHERE)
        options = re2.Options()
        options.max_mem, options.log_errors = _MEMORY, False
        self._set = re2.Set.SearchSet(options)
        try:
            for pattern in self._order:
                self._set.Add(widened(pattern.regex))
            self._set.Compile()
        except (re2.error, RecursionError) as error:
            raise ConfigError(f"rubric: patterns too large to be searched together: {error}") from error

    def candidates(self, text: str) -> frozenset[Pattern]:
        """The patterns that may be found in `text`: every one that is, and few others."""
        try:
            found = self._set.Match(text.encode())
        except UnicodeEncodeError:  # half a surrogate pair is nothing that RE2 can read
            return self.patterns
        if found is None:  # not even the pattern that is found everywhere: it ran out of memory
            return self.patterns
        return frozenset([self._order[at] for at in found])


def widened(pattern: re.Pattern[str]) -> str:
    """RE2's syntax for something that matches wherever `pattern` does."""
    if pattern.flags & re.IGNORECASE:
        return ""
    return _part(sre.parse(pattern.pattern, pattern.flags))


def _part(items: Any) -> str:
    """The part of a sequence that says most: of parts with room between them each needs a state of its own, times all the others.

    A text that matches the sequence has every part of it, so one is enough to rule texts out.
    """
    if len(items) == 1:
        kind, value = items[0]
        if kind is c.BRANCH:
            return f"(?:{'|'.join(map(_part, value[1]))})"
        if kind is c.SUBPATTERN and not value[1] & re.IGNORECASE:
            return _part(value[3])
    gaps = [at for at, item in enumerate(items) if _is_gap(*item)]
    bounds = zip([-1, *gaps], [*gaps, len(items)], strict=True)
    parts = [items[before + 1 : after] for before, after in bounds]
    return _sequence(max(parts, key=lambda part: part.getwidth()[0]))


def _is_gap(kind: Any, value: Any) -> bool:
    """Whether it lets a stretch of almost any text through."""
    return kind in _REPEATS and value[1] - value[0] >= _GAP and len(value[2]) == 1 and value[2][0][0] in (c.ANY, c.IN)


def _sequence(items: Any) -> str:
    return "".join(_one(*item) for item in items)


def _one(kind: Any, value: Any) -> str:
    if kind is c.LITERAL:
        return _character(value)
    if kind is c.NOT_LITERAL:
        return f"[^{_character(value)}]"
    if kind is c.IN:
        return _members(value)
    if kind is c.BRANCH:
        return f"(?:{'|'.join(map(_sequence, value[1]))})"
    if kind is c.SUBPATTERN:
        _, flags, _, body = value
        return f"{_ANYTHING}*" if flags & re.IGNORECASE else f"(?:{_sequence(body)})"
    if kind is c.ATOMIC_GROUP:
        return f"(?:{_sequence(value)})"
    if kind in _REPEATS:
        least, most, body = value
        sign = ("?", "")[least] if most == 1 else "+" if least else "*"
        return f"(?:{_sequence(body)}){sign}"
    if kind in (c.AT, c.ASSERT, c.ASSERT_NOT):
        return ""
    return _ANYTHING if kind is c.ANY else f"{_ANYTHING}*"  # a reference to a group may be anything


def _members(parts: Any) -> str:
    """A set of characters. One that excludes a category is widened to any character: RE2's categories are larger than `re`'s."""
    excludes = parts[0][0] is c.NEGATE
    inside = ""
    for kind, value in parts[excludes:]:
        if kind is c.LITERAL:
            inside += _character(value)
        elif kind is c.RANGE:
            inside += f"{_character(value[0])}-{_character(value[1])}"
        elif value in _CATEGORIES and not excludes:
            inside += _CATEGORIES[value]
        else:
            return _ANYTHING
    return f"[{'^' * excludes}{inside}]"


def _character(code: int) -> str:
    return f"\\x{{{code:x}}}"
