"""Validation errors of pydantic in plain words, with the nearest valid key or value.

Works for any model. Left out: the file and the line, which `yaml_source.explain` puts in front.
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
"""The path of a value in a file: `("principles", 0, "id")`."""

_PATTERNS = {
    r"^[a-z][a-z0-9_-]*$": "lower-case letters, digits, - and _, beginning with a letter",
    r"^[a-z]{2,3}$": "a language code of two or three lower-case letters",
}
"""Pattern of a text field -> what it accepts."""
_TYPES = {
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
"""Stem of pydantic's error type -> the expected type in plain words."""
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
"""Pydantic's error type -> plain words, and the name of the limit in the error's context."""


def mistakes(
    error: ValidationError, known: Collection[Key], model: type[BaseModel]
) -> Iterator[tuple[Key, str]]:
    """(key, message) for every mistake.

    Args:
        error: what pydantic raised.
        known: the keys that the file has. Parts of a location that are not in the file, which
            pydantic adds for union members, are left out of the key.
        model: the model that was validated; its field names are suggested for unknown keys.
    """
    for detail in error.errors(include_url=False):
        loc = detail["loc"]
        key = key_in_file(loc, known)
        if detail["type"] == "extra_forbidden":
            yield key, _unknown_key(str(loc[-1]), _valid_keys(model, loc[:-1]))
        elif detail["type"] == "missing":
            yield key, f"the key {loc[-1]!r} is missing"
        elif detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue  # pydantic counts the valid items only; the others are reported themselves
        else:
            yield key, _message(detail)


def key_in_file(loc: Key, known: Collection[Key]) -> Key:
    """The part of pydantic's location that is in the file.

    Without the names of union members, `[key]`, and the missing key itself.
    """
    key: Key = ()
    for part in loc:
        for candidate in ((*key, part), (*key, str(part))):
            if candidate in known:
                key = candidate
                break
    return key


def dotted(key: Key) -> str:
    """`principles.0.id`; parts other than plain words are quoted, to keep messages on one line."""
    return ".".join(
        str(part) if isinstance(part, int) or re.fullmatch(r"[\w-]{1,60}", part) else shorten(part)
        for part in key
    )


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
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return type(value).__name__


def suggestion(word: str, choices: Collection[str]) -> str:
    """`: did you mean 'x'?` for the nearest choice, or an empty text."""
    folded = {choice.casefold(): choice for choice in choices}
    nearest = get_close_matches(word.casefold()[:100], folded, n=1, cutoff=0.6)
    return f": did you mean {folded[nearest[0]]!r}?" if nearest else ""


# ---- the message of one error ----


def _unknown_key(word: str, valid: list[str]) -> str:
    hint = suggestion(word, valid)
    if not hint and valid:
        hint = f"; valid keys: {', '.join(valid)}"
    return f"unknown key {shorten(word)}{hint}"


def _message(detail: ErrorDetails) -> str:
    for explain in (_choice_message, _limit_message, _text_message, _type_message):
        message = explain(detail)
        if message is not None:
            return message
    return _pydantic_message(detail)


def _choice_message(detail: ErrorDetails) -> str | None:
    """A value that is not one of the allowed ones."""
    kind, value, limits = detail["type"], detail["input"], detail.get("ctx", {})
    if kind in ("literal_error", "enum"):
        expected = str(limits["expected"])
        hint = _nearest_quoted(value, expected) if isinstance(value, str) else ""
        return f"must be {expected}, got {describe(value)}{hint}"
    if kind == "union_tag_invalid":
        tag, expected = str(limits["tag"]), limits["expected_tags"]
        hint = _nearest_quoted(tag, expected)
        return f"{limits['discriminator']} must be one of {expected}, got {shorten(tag)}{hint}"
    return None


def _nearest_quoted(word: str, choices: str) -> str:
    """The suggestion for `word` among the quoted words of `choices`."""
    return suggestion(word, re.findall(r"'([^']*)'", choices))


def _limit_message(detail: ErrorDetails) -> str | None:
    """A number out of bounds, or a list that is too short."""
    kind, value, limits = detail["type"], detail["input"], detail.get("ctx", {})
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"must be {words} {limits[name]}, got {describe(value)}"
    if kind == "finite_number":
        return f"must be a finite number, got {describe(value)}"
    if kind == "too_short":
        return f"needs at least {limits['min_length']} item(s), got {limits['actual_length']}"
    return None


def _text_message(detail: ErrorDetails) -> str | None:
    """A text of the wrong form, or an error that a validator of the model raised."""
    kind, limits = detail["type"], detail.get("ctx", {})
    if kind == "string_pattern_mismatch":
        pattern = str(limits["pattern"])
        expected = _PATTERNS.get(pattern, f"a text that matches {pattern}")
        return f"{shorten(detail['input'])} must be {expected}"
    if kind == "string_too_short" and limits["min_length"] == 1:
        return "must not be empty"
    if kind in ("value_error", "assertion_error"):
        return " ".join(str(limits["error"]).split())
    return None


def _type_message(detail: ErrorDetails) -> str | None:
    """A value of the wrong type."""
    kind, value = detail["type"], detail["input"]
    stem = re.sub(r"_(type|parsing|from_float|attributes_type|parsing_size)$", "", kind)
    if stem not in _TYPES or stem == kind:
        return None
    unquoted = stem == "string" and isinstance(value, (int, float))
    hint = ": put it in quotes" if unquoted else ""
    return f"must be {_TYPES[stem]}, got {describe(value)}{hint}"


def _pydantic_message(detail: ErrorDetails) -> str:
    """Pydantic's message, for the error types without a wording here."""
    message = " ".join(detail["msg"].split())
    return f"{message[:1].lower()}{message[1:]}, got {describe(detail['input'])}"


# ---- the keys that a model accepts ----


def _valid_keys(model: type[BaseModel], loc: Key) -> list[str]:
    """The keys that are valid at `loc`, in the order of their model."""
    types_at_loc: list[Any] = [model]
    for part in loc:
        inner = [member for kind in types_at_loc for member in _types_inside(kind, part)]
        if inner:  # the name of a union member leads to no type: keep the outer types
            types_at_loc = inner
    return list(dict.fromkeys(name for kind in types_at_loc for name in _fields(kind)))


def _fields(kind: Any) -> dict[str, Any]:
    """Key as written in the file -> annotation, of a model; empty for any other type."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return {}
    return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}


def _types_inside(kind: Any, part: str | int) -> list[Any]:
    """The types that a value at `part` of a `kind` may have."""
    fields = _fields(kind)
    if isinstance(part, str) and part in fields:
        return _union_members(fields[part])
    origin, args = get_origin(kind), get_args(kind)
    if not isinstance(origin, type) or not args:
        return []
    if issubclass(origin, Mapping):
        return _union_members(args[1])
    if isinstance(part, int) and issubclass(origin, Collection):
        is_fixed = issubclass(origin, tuple) and args[-1] is not Ellipsis
        return _union_members(args[part] if is_fixed and part < len(args) else args[0])
    return []


def _union_members(kind: Any) -> list[Any]:
    """The members of a union, or `kind` alone; without Annotated and type aliases."""
    kind = getattr(kind, "__value__", kind)
    if get_origin(kind) is Annotated:
        return _union_members(get_args(kind)[0])
    if get_origin(kind) in (typing.Union, types.UnionType):
        return [inner for member in get_args(kind) for inner in _union_members(member)]
    return [kind]
