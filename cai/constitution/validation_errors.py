"""What pydantic found wrong, in plain words: where, what was given, what is wanted, and the nearest valid key or value.

Works for any model. Left out: the file and the line, which `source.explain` puts in front.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Key = tuple[str | int, ...]
"""A place in a file: `("principles", 0, "id")`."""

_PATTERNS = {
    r"^[a-z][a-z0-9_-]*$": "lower-case letters, digits, - and _, beginning with a letter",
    r"^[a-z]{2,3}$": "a language code of two or three lower-case letters",
}
_WANTED = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "a mapping (key: value lines)",
    "model": "a mapping (key: value lines)",
    "none": "empty",
}
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}


def mistakes(error: ValidationError, known: Collection[Key], model: type[BaseModel]) -> Iterator[tuple[Key, str]]:
    """(place, what is wrong) of every mistake. `known` holds the places that the file has: pydantic's own marks are left out."""
    for detail in error.errors(include_url=False):
        loc = detail["loc"]
        key = place(loc, known)
        if detail["type"] == "extra_forbidden":
            yield key, _unknown(str(loc[-1]), _names(model, loc[:-1]))
        elif detail["type"] == "missing":
            yield key, f"the key {loc[-1]!r} is missing"
        elif detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue  # pydantic counts the valid items only; the others have lines of their own
        else:
            yield key, _wrong(detail)


def place(loc: Key, known: Collection[Key]) -> Key:
    """The part of pydantic's location that is in the file: without union members, `[key]`, or the missing key itself."""
    key: Key = ()
    for part in loc:
        for step in ((*key, part), (*key, str(part))):
            if step in known:
                key = step
                break
    return key


def dotted(key: Key) -> str:
    """`principles.0.id`; a part that is not a plain word is quoted, so that a message stays one line."""
    return ".".join(str(part) if isinstance(part, int) or re.fullmatch(r"[\w-]{1,60}", part) else shorten(part) for part in key)


def shorten(value: object, width: int = 60) -> str:
    """`value` quoted on one line, at most about `width` characters."""
    text = str(value)
    return repr(text) if len(text) <= width else repr(text[: width - 1] + "…")


def describe(value: object) -> str:
    """`the text 'x'`, `the number 3`, `a list`, … for messages."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {shorten(value)}"
    return "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, (list, tuple)) else type(value).__name__


def suggestion(word: str, choices: Collection[str]) -> str:
    """`: did you mean 'x'?` for the nearest choice, or an empty text."""
    folded = {choice.casefold(): choice for choice in choices}
    near = get_close_matches(word.casefold()[:100], folded, n=1, cutoff=0.6)
    return f": did you mean {folded[near[0]]!r}?" if near else ""


def _unknown(word: str, names: list[str]) -> str:
    near = suggestion(word, names)
    return f"unknown key {shorten(word)}" + (near or (f"; valid keys: {', '.join(names)}" if names else ""))


def _wrong(detail: ErrorDetails) -> str:
    kind, value, limits = detail["type"], detail["input"], detail.get("ctx", {})
    if kind in ("literal_error", "enum"):
        expected = str(limits["expected"])
        near = suggestion(value, re.findall(r"'([^']*)'", expected)) if isinstance(value, str) else ""
        return f"must be {expected}, got {describe(value)}{near}"
    if kind == "union_tag_invalid":
        near = suggestion(str(limits["tag"]), re.findall(r"'([^']*)'", limits["expected_tags"]))
        return f"{limits['discriminator']} must be one of {limits['expected_tags']}, got {shorten(limits['tag'])}{near}"
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"must be {words} {limits[name]}, got {describe(value)}"
    if kind == "string_pattern_mismatch":
        pattern = str(limits["pattern"])
        return f"{shorten(value)} must be {_PATTERNS.get(pattern, f'a text that matches {pattern}')}"
    if kind == "string_too_short" and limits["min_length"] == 1:
        return "must not be empty"
    if kind == "finite_number":
        return f"must be a finite number, got {describe(value)}"
    if kind == "too_short":
        return f"needs at least {limits['min_length']} item(s), got {limits['actual_length']}"
    if kind in ("value_error", "assertion_error"):
        return " ".join(str(limits["error"]).split())
    stem = re.sub(r"_(type|parsing|from_float|attributes_type|parsing_size)$", "", kind)
    if stem in _WANTED and stem != kind:
        hint = ": put it in quotes" if stem == "string" and isinstance(value, (int, float)) else ""
        return f"must be {_WANTED[stem]}, got {describe(value)}{hint}"
    message = " ".join(detail["msg"].split())
    return f"{message[:1].lower()}{message[1:]}, got {describe(value)}"


def _names(model: type[BaseModel], loc: Key) -> list[str]:
    """The keys that are valid at `loc`, in the order of their model."""
    here: list[Any] = [model]
    for part in loc:
        here = [inner for kind in here for inner in _inside(kind, part)] or here  # a union's own mark leads nowhere: stay
    return list(dict.fromkeys(name for kind in here for name in _fields(kind)))


def _fields(kind: Any) -> dict[str, Any]:
    """Key as written in the file -> annotation, of a model; empty for any other type."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return {}
    return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}


def _inside(kind: Any, part: str | int) -> list[Any]:
    """The types that a value at `part` of a `kind` may have."""
    if isinstance(part, str) and part in (fields := _fields(kind)):
        return _members(fields[part])
    origin, args = get_origin(kind), get_args(kind)
    if not isinstance(origin, type) or not args:
        return []
    if issubclass(origin, Mapping):
        return _members(args[1])
    if isinstance(part, int) and issubclass(origin, Collection):
        fixed = issubclass(origin, tuple) and args[-1] is not Ellipsis
        return _members(args[part] if fixed and part < len(args) else args[0])
    return []


def _members(kind: Any) -> list[Any]:
    """`kind` without Annotated and aliases, a union as its members."""
    kind = getattr(kind, "__value__", kind)
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (typing.Union, types.UnionType):
        return [inner for member in get_args(kind) for inner in _members(member)]
    return [kind]
