"""The boolean language of a rubric: `and`, `or`, `not`, parentheses and ids. Never `eval`.

    expression = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation = "not" negation | "(" expression ")" | id
    id = [a-z][a-z0-9_-]*

Left out on purpose: constants, comparisons, numbers. A rubric's expressions stay small enough to be proved by truth table.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cai.errors import ConfigError

MAX_DEPTH = 50
"""Nested `not` and parentheses allowed: far beyond a readable rule, far below Python's recursion limit."""
MAX_NAMES = 20
"""Propositions that one truth table may span: 2^18 rows."""

_TOKEN = re.compile(r"[a-z][a-z0-9_-]*|[()]")
_SPACE = re.compile(r"\s*")
_WORDS = ("and", "or", "not")


@dataclass(frozen=True, slots=True)
class Name:
    id: str


@dataclass(frozen=True, slots=True)
class Not:
    child: Node


@dataclass(frozen=True, slots=True)
class And:
    children: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    children: tuple[Node, ...]


Node = Name | Not | And | Or
Table = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    column: int


def parse(text: str) -> Node:
    """The expression as a tree. Raises ConfigError that names the column (from 1) of the first mistake."""
    reader = _Reader(_tokens(text))
    node, rest = reader.disjunction(0), reader.peek()
    if rest.text:
        hint = "join the two with `and` or `or`" if rest.text != ")" else "it closes nothing"
        raise ConfigError(f"column {rest.column}: unexpected {rest.text!r}: {hint}")
    return node


def names(node: Node) -> frozenset[str]:
    """Every id that the expression mentions."""
    match node:
        case Name(id):
            return frozenset({id})
        case Not(child):
            return names(child)
        case And(children) | Or(children):
            return frozenset().union(*map(names, children))


def holds(node: Node, assignment: Mapping[str, bool]) -> bool:
    """Whether the expression is true. KeyError when the assignment lacks a name that decides it."""
    match node:
        case Name(id):
            return assignment[id]
        case Not(child):
            return not holds(child, assignment)
        case And(children):
            return all(holds(child, assignment) for child in children)
        case Or(children):
            return any(holds(child, assignment) for child in children)


def columns(order: Sequence[str]) -> dict[str, Table]:
    """All 2^len(order) assignments, as one column for each name; bit i of the row number is the value of `order[i]`."""
    rows = np.arange(1 << len(order))
    return {name: (rows >> bit & 1).astype(np.bool_) for bit, name in enumerate(order)}


def truth(node: Node, columns: Mapping[str, Table]) -> Table:
    """`holds` under every assignment at once: one row of the answer for each row of the columns."""
    match node:
        case Name(id):
            return columns[id]
        case Not(child):
            return ~truth(child, columns)
        case And(children):
            return functools.reduce(operator.and_, [truth(child, columns) for child in children])
        case Or(children):
            return functools.reduce(operator.or_, [truth(child, columns) for child in children])


def _tokens(text: str) -> list[_Token]:
    """The words and parentheses of `text`, then an empty token that stands for its end."""
    tokens: list[_Token] = []
    at = 0
    while True:
        space = _SPACE.match(text, at)
        at = space.end() if space else at
        if at == len(text):
            return [*tokens, _Token("", at + 1)]
        found = _TOKEN.match(text, at)
        if found is None:
            raise ConfigError(f"column {at + 1}: cannot read {text[at]!r}: only lower-case ids, and, or, not, ( and )")
        tokens.append(_Token(found[0], at + 1))
        at = found.end()


class _Reader:
    """A position in the tokens; one method for each rule of the grammar."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens, self.at = tokens, 0

    def peek(self) -> _Token:
        return self.tokens[self.at]

    def take(self, text: str) -> bool:
        if self.peek().text != text:
            return False
        self.at += 1
        return True

    def disjunction(self, depth: int) -> Node:
        children = [self.conjunction(depth)]
        while self.take("or"):
            children.append(self.conjunction(depth))
        return children[0] if len(children) == 1 else Or(tuple(children))

    def conjunction(self, depth: int) -> Node:
        children = [self.negation(depth)]
        while self.take("and"):
            children.append(self.negation(depth))
        return children[0] if len(children) == 1 else And(tuple(children))

    def negation(self, depth: int) -> Node:
        token = self.peek()
        if depth > MAX_DEPTH:
            raise ConfigError(f"column {token.column}: nested deeper than {MAX_DEPTH}: name a part of it under `derived`")
        if self.take("not"):
            return Not(self.negation(depth + 1))
        if self.take("("):
            node = self.disjunction(depth + 1)
            if not self.take(")"):
                raise ConfigError(f"column {self.peek().column}: expected `)` for the `(` at column {token.column}")
            return node
        if token.text in _WORDS or token.text in ("", ")"):
            found = repr(token.text) if token.text else "the end"
            raise ConfigError(f"column {token.column}: expected an id, `not` or `(`, found {found}")
        self.at += 1
        return Name(token.text)
