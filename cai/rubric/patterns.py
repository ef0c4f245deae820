"""Regular expressions of bounded cost: the bound is computed before a pattern may be used.

Python's `re` backtracks, so a pattern such as `(a+)+b` takes time exponential in the text. From the
pattern's parse tree follows a bound on the number of ways in which it can match from one position.
Patterns above the limit are refused.

Time grows in proportion to the text: a pattern that may begin anywhere repeats nothing more than
`MAX_REPETITIONS` times, since `a.*b` without that limit takes time quadratic in a text of a's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from re import _compiler as sre_compiler  # type: ignore[attr-defined]  # compiles a parse tree
from re import _parser as sre  # type: ignore[attr-defined]  # a second parser could disagree
from typing import Any

from cai.errors import ConfigError

MAX_WAYS = 1_000_000
"""The limit on ways to match from one position."""
TEXT_LENGTH = 10_000
"""Characters of the text for which the work of a search is estimated."""
MAX_WORK = 300_000_000
"""The limit on ways to match from all positions of such a text: a few seconds at worst."""
MAX_TOTAL_WORK = 2_000_000_000
"""The limit on `MAX_WORK` summed over a rubric's patterns; the shipped rubrics take a fifth."""
MAX_REPETITIONS = 1_000
"""What `*`, `+` and `{n,}` stand for in a pattern that does not begin with ^. It is also the count
of their ways on one character: one per pattern passes, two are refused."""
_MAX_STRINGS = 400
"""Fixed strings that a part of a pattern may stand for before they are no longer enumerated."""

_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT)
_ZERO_WIDTH = (sre.AT, sre.ASSERT, sre.ASSERT_NOT)


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """A regular expression whose cost is bounded.

    Equal only to itself: `re.Pattern` would hash all of its code at each lookup.
    """

    regex: re.Pattern[str]
    """As it is written."""
    searched: re.Pattern[str]
    """The same, with bounded repetitions."""
    work: int
    """Steps of a search in a text of `TEXT_LENGTH`, at most."""


def check_total_work(patterns: Mapping[str, Sequence[Pattern]]) -> None:
    """Nothing, if a rubric's patterns together are cheap enough.

    Args:
        patterns: key in the rubric -> patterns below it.

    Raises:
        ConfigError: they are not; the message names the key with the most costly ones.
    """
    work = {key: sum(pattern.work for pattern in below) for key, below in patterns.items()}
    if sum(work.values()) > MAX_TOTAL_WORK:
        raise ConfigError(
            f"{max(work, key=lambda key: work[key])}: the rubric's patterns together can take over "
            f"{MAX_TOTAL_WORK:,} steps in a text of {TEXT_LENGTH:,} characters, these the most of "
            "them: bound their quantifiers lower, or use fewer"
        )


@lru_cache(maxsize=4096)  # a process compiles the same rubric for each of its jobs
def compile_pattern(text: str, key: str) -> Pattern:
    """The pattern, for text in lower case.

    Raises:
        ConfigError: it is no regular expression, its cost is too high, or it matches the empty
            text; the message begins with `key`.
    """
    # Case-insensitive matching is much slower, and a pattern in lower case does not need it.
    unescaped = re.sub(r"\\.", "", text)
    flags = re.NOFLAG if unescaped == unescaped.lower() else re.IGNORECASE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            regex = re.compile(text, flags)
            tree = sre.parse(text, flags)
        ways = _ways_of_sequence(tree)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise ConfigError(f"{key}: not a regular expression: {error}: {text!r}") from error
    except _UnboundedCost as error:
        raise ConfigError(
            f"{key}: {error}: bound the inner one, e.g. {{0,20}}: {text!r}"
        ) from error
    if ways >= MAX_WAYS:
        raise ConfigError(
            f"{key}: can match in over {MAX_WAYS:,} ways from one position: "
            f"bound its quantifiers lower: {text!r}"
        )
    work = _work_of_search(tree, ways)
    if work > MAX_WORK:
        raise ConfigError(
            f"{key}: can take over {MAX_WORK:,} steps in a text of {TEXT_LENGTH:,} characters: "
            f"bound its quantifiers lower, or begin it with a word or ^: {text!r}"
        )
    if regex.search("") is not None:
        raise ConfigError(
            f"{key}: matches the empty text, so it would hold for every reply: {text!r}"
        )
    return Pattern(regex, _bounded(regex, tree), work)


def _bounded(regex: re.Pattern[str], tree: Any) -> re.Pattern[str]:
    """The expression with at most `MAX_REPETITIONS`, if it may begin anywhere in a text."""
    if not _has_unbounded(tree) or _start_positions(tree) == 1:
        return regex
    _bound_repeats(tree)
    bounded: re.Pattern[str] = sre_compiler.compile(tree, regex.flags)
    return bounded


def _bound_repeats(sequence: Any) -> None:
    for index, (kind, value) in enumerate(sequence.data):
        if kind in _REPEATS:
            least, most, body = value
            if most is sre.MAXREPEAT:
                sequence.data[index] = (kind, (least, max(least, MAX_REPETITIONS), body))
            _bound_repeats(body)
        for child in _children(kind, value):
            _bound_repeats(child)


class _UnboundedCost(Exception): ...


def _work_of_search(tree: Any, ways: int) -> int:
    """An upper bound on the ways to match from all positions of a text of `TEXT_LENGTH`."""
    if _has_unbounded(tree):
        ways *= TEXT_LENGTH // MAX_REPETITIONS
    return ways * _start_positions(tree)


def _start_positions(tree: Any) -> int:
    """Positions of such a text at which a match may begin.

    One for a pattern that begins with ^; else the text may repeat the fixed strings with which
    the pattern begins.
    """
    starts = frozenset({""})
    for kind, value in tree:
        if kind is sre.AT and value in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING):
            is_start = starts == {""} and not tree.state.flags & re.MULTILINE
            return 1 if is_start else TEXT_LENGTH
        strings = _fixed_strings(kind, value)
        if strings is None or len(starts) * len(strings) > _MAX_STRINGS:
            break
        starts = frozenset("".join(pair) for pair in product(starts, strings))
    return TEXT_LENGTH // max(1, min(map(_shift_to_repeat, starts)))


def _shift_to_repeat(string: str) -> int:
    """The least distance at which two occurrences of `string` can begin."""
    return next(
        (shift for shift in range(1, len(string)) if string.startswith(string[shift:])),
        len(string),
    )


def _ways_of_sequence(sequence: Any) -> int:
    """An upper bound on the ways in which the sequence can match from one position."""
    total = 1
    for item in sequence:
        total = min(total * _ways(*item), MAX_WAYS)
    return total


def _ways(kind: Any, value: Any) -> int:
    fixed = _fixed_strings(kind, value)
    if fixed is not None:
        # Fixed strings that match at one position are all prefixes of the longest of them.
        return max(sum(string.startswith(prefix) for prefix in fixed) for string in fixed)
    if kind is sre.BRANCH:
        return sum(_ways_of_sequence(branch) for branch in value[1])
    if kind is sre.SUBPATTERN:
        return _ways_of_sequence(value[3])
    if kind is sre.GROUPREF_EXISTS:
        return _ways_of_sequence(value[1]) + (_ways_of_sequence(value[2]) if value[2] else 1)
    if kind in (sre.ASSERT, sre.ASSERT_NOT):
        return _ways_of_sequence(value[1])
    if kind is sre.ATOMIC_GROUP:
        return _ways_of_sequence(value)
    return _ways_of_repeat(*value) if kind in _REPEATS else 1


def _ways_of_repeat(least: Any, most: Any, body: Any) -> int:
    inner = _ways_of_sequence(body)
    if most > 1 and _has_unbounded(body):
        raise _UnboundedCost("a quantifier on a group that holds an unbounded quantifier")
    if most is sre.MAXREPEAT:
        if inner > 1:
            raise _UnboundedCost(
                "an unbounded quantifier on a group that can match in several ways"
            )
        return MAX_REPETITIONS
    if inner == 1:
        return int(most - least + 1)
    total = 0
    for times in range(least, most + 1):
        total += inner ** min(times, 64)
        if total >= MAX_WAYS:
            break
    return min(total, MAX_WAYS)


def _has_unbounded(sequence: Any) -> bool:
    for kind, value in sequence:
        if kind in _REPEATS and (value[1] is sre.MAXREPEAT or _has_unbounded(value[2])):
            return True
        if any(_has_unbounded(child) for child in _children(kind, value)):
            return True
    return False


def _children(kind: Any, value: Any) -> list[Any]:
    if kind is sre.BRANCH:
        return list(value[1])
    if kind is sre.SUBPATTERN:
        return [value[3]]
    if kind is sre.GROUPREF_EXISTS:
        return [part for part in value[1:] if part]
    if kind in (sre.ASSERT, sre.ASSERT_NOT):
        return [value[1]]
    return [value] if kind is sre.ATOMIC_GROUP else []


def _fixed_strings(kind: Any, value: Any) -> frozenset[str] | None:
    """All strings that the part can match, in lower case; None: too many, or not fixed."""
    if kind is sre.LITERAL:
        return frozenset({chr(value).lower()})
    if kind in _ZERO_WIDTH:
        return frozenset({""})
    if kind is sre.IN and all(part is sre.LITERAL for part, _ in value):
        return frozenset(chr(code).lower() for _, code in value)
    if kind is sre.SUBPATTERN:
        return _fixed_strings_of_sequence(value[3])
    if kind is sre.BRANCH:
        branches = [_fixed_strings_of_sequence(branch) for branch in value[1]]
        fixed = [branch for branch in branches if branch is not None]
        union: frozenset[str] = frozenset().union(*fixed)
        return union if len(fixed) == len(branches) and len(union) <= _MAX_STRINGS else None
    if kind in _REPEATS and tuple(value[:2]) == (0, 1):
        inner = _fixed_strings_of_sequence(value[2])
        return None if inner is None else inner | {""}
    return None


def _fixed_strings_of_sequence(sequence: Any) -> frozenset[str] | None:
    strings = frozenset({""})
    for item in sequence:
        suffixes = _fixed_strings(*item)
        if suffixes is None or len(strings) * len(suffixes) > _MAX_STRINGS:
            return None
        strings = frozenset("".join(pair) for pair in product(strings, suffixes))
    return strings
