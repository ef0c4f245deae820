"""Regular expressions that cannot run away: each is measured before it may be used.

Python's `re` backtracks, so a pattern such as `(a+)+b` takes time exponential in the text. Here the pattern's own parse tree
gives a bound on the ways in which it can match from one position; patterns above the bound are refused.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from itertools import product
from re import _parser as sre  # type: ignore[attr-defined]  # the library's own reading: a second one could disagree with it
from typing import Any

from cai.errors import ConfigError

MAX_WAYS = 1_000_000
"""Ways to match from one position that a pattern may have. This times the length bounds the work on a text."""
_UNBOUNDED_WAYS = 1_000
"""What `*`, `+` and `{n,}` on a single character count for: one in a pattern is slow on long texts, two are refused."""
_MAX_STRINGS = 400

_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT)
_ZERO_WIDTH = (sre.AT, sre.ASSERT, sre.ASSERT_NOT)


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """A regular expression that has been measured. Equal only to itself, for `re.Pattern` hashes all of its code each time."""

    regex: re.Pattern[str]


def compile_pattern(text: str, key: str) -> Pattern:
    """The pattern, for text in lower case. Raises ConfigError with `key` for one that is wrong or can run away."""
    # Matching without regard to case is much slower, and a pattern in lower case does not need it.
    flags = re.NOFLAG if (bare := re.sub(r"\\.", "", text)) == bare.lower() else re.IGNORECASE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            regex = re.compile(text, flags)
            tree = sre.parse(text, flags)
        ways = _ways(tree)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise ConfigError(f"{key}: not a regular expression: {error}: {text!r}") from error
    except _Runaway as error:
        raise ConfigError(f"{key}: {error}: bound the inner one, e.g. {{0,20}}: {text!r}") from error
    if ways >= MAX_WAYS:
        raise ConfigError(f"{key}: can match in over {MAX_WAYS:,} ways from one position: bound its quantifiers lower: {text!r}")
    if regex.search("") is not None:
        raise ConfigError(f"{key}: matches the empty text, so it would hold for every reply: {text!r}")
    return Pattern(regex)


class _Runaway(Exception): ...


def _ways(sequence: Any) -> int:
    """In how many ways the sequence can match from one position, at most."""
    total = 1
    for item in sequence:
        total = min(total * _ways_of(*item), MAX_WAYS)
    return total


def _ways_of(kind: Any, value: Any) -> int:
    if (exact := _exact(kind, value)) is not None:
        # Of a set of fixed strings only those match that begin the text: as many as are prefixes of one member.
        return max(sum(whole.startswith(part) for part in exact) for whole in exact)
    if kind is sre.BRANCH:
        return sum(_ways(branch) for branch in value[1])
    if kind is sre.SUBPATTERN:
        return _ways(value[3])
    if kind is sre.GROUPREF_EXISTS:
        return _ways(value[1]) + (_ways(value[2]) if value[2] else 1)
    if kind in (sre.ASSERT, sre.ASSERT_NOT):
        return _ways(value[1])
    if kind is sre.ATOMIC_GROUP:
        return _ways(value)
    if kind not in _REPEATS:
        return 1
    least, most, body = value
    inner = _ways(body)
    if most > 1 and _has_unbounded(body):
        raise _Runaway("a quantifier on a group that holds an unbounded quantifier")
    if most is sre.MAXREPEAT:
        if inner > 1:
            raise _Runaway("an unbounded quantifier on a group that can match in several ways")
        return _UNBOUNDED_WAYS
    if inner == 1:
        return int(most - least + 1)
    total = 0
    for times in range(least, most + 1):
        total += inner ** min(times, 64)
        if total >= MAX_WAYS:
            break
    return min(total, MAX_WAYS)


def _has_unbounded(sequence: Any) -> bool:
    """Whether an unbounded quantifier stands anywhere in the sequence."""
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


def _exact(kind: Any, value: Any) -> frozenset[str] | None:
    """All strings that the part can match, in lower case; None when they are many or not fixed."""
    if kind is sre.LITERAL:
        return frozenset({chr(value).lower()})
    if kind in _ZERO_WIDTH:
        return frozenset({""})
    if kind is sre.IN and all(part is sre.LITERAL for part, _ in value):
        return frozenset(chr(code).lower() for _, code in value)
    if kind is sre.SUBPATTERN:
        return _exact_sequence(value[3])
    if kind is sre.BRANCH:
        branches = [_exact_sequence(branch) for branch in value[1]]
        found = [branch for branch in branches if branch is not None]
        union: frozenset[str] = frozenset().union(*found)
        return union if len(found) == len(branches) and len(union) <= _MAX_STRINGS else None
    if kind in _REPEATS and tuple(value[:2]) == (0, 1):
        inner = _exact_sequence(value[2])
        return None if inner is None else inner | {""}
    return None


def _exact_sequence(sequence: Any) -> frozenset[str] | None:
    run = frozenset({""})
    for item in sequence:
        exact = _exact(*item)
        if exact is None or len(run) * len(exact) > _MAX_STRINGS:
            return None
        run = frozenset("".join(pair) for pair in product(run, exact))
    return run
