"""The boolean language of a rubric: `and`, `or`, `not`, parentheses and ids. Never `eval`.

    expression = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation = "not" negation | "(" expression ")" | id
    id = [a-z][a-z0-9_-]*

Left out on purpose: constants, comparisons, numbers. A rubric's expressions stay small enough to be
proved by truth table.
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
"""Nested `not` and parentheses allowed: well above a readable rule, below the recursion limit."""
MAX_NAMES = 21
"""Propositions that one truth table may span: 2^21 rows."""

_TOKEN = re.compile(r"[a-z][a-z0-9_-]*|[()]")
_WHITESPACE = re.compile(r"\s*")
_KEYWORDS = ("and", "or", "not")


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
"""One value per assignment; bit i of the row number is the value of the i-th name."""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    column: int


def parse(text: str) -> Node:
    """The expression as a tree.

    Raises:
        ConfigError: a syntax error; the message names the column (from 1) of the first one.
    """
    parser = _Parser(_tokenize(text))
    node = parser.disjunction(0)
    rest = parser.peek()
    if rest.text:
        hint = "join the two with `and` or `or`" if rest.text != ")" else "no `(` is open"
        raise ConfigError(f"column {rest.column}: unexpected {rest.text!r}: {hint}")
    return node


def names_in(node: Node) -> frozenset[str]:
    """All ids that the expression mentions."""
    match node:
        case Name(id):
            return frozenset({id})
        case Not(child):
            return names_in(child)
        case And(children) | Or(children):
            return frozenset().union(*map(names_in, children))


def evaluate(node: Node, assignment: Mapping[str, bool]) -> bool:
    """The expression's value. KeyError when the assignment lacks a name that decides it."""
    match node:
        case Name(id):
            return assignment[id]
        case Not(child):
            return not evaluate(child, assignment)
        case And(children):
            return all(evaluate(child, assignment) for child in children)
        case Or(children):
            return any(evaluate(child, assignment) for child in children)


def assignment_columns(order: Sequence[str]) -> dict[str, Table]:
    """All 2^len(order) assignments, one column per name.

    Bit i of the row number is the value of `order[i]`.
    """
    rows = np.arange(1 << len(order))
    return {name: (rows >> bit & 1).astype(np.bool_) for bit, name in enumerate(order)}


def truth_column(node: Node, columns: Mapping[str, Table]) -> Table:
    """`evaluate` under every assignment at once: one value per row of the columns."""
    match node:
        case Name(id):
            return columns[id]
        case Not(child):
            return ~truth_column(child, columns)
        case And(children):
            return functools.reduce(
                operator.and_, [truth_column(child, columns) for child in children]
            )
        case Or(children):
            return functools.reduce(
                operator.or_, [truth_column(child, columns) for child in children]
            )


def _tokenize(text: str) -> list[_Token]:
    """The words and parentheses of `text`, then an empty token that marks its end."""
    tokens: list[_Token] = []
    position = 0
    while True:
        space = _WHITESPACE.match(text, position)
        position = space.end() if space else position
        if position == len(text):
            return [*tokens, _Token("", position + 1)]
        match = _TOKEN.match(text, position)
        if match is None:
            raise ConfigError(
                f"column {position + 1}: cannot read {text[position]!r}: "
                "only lower-case ids, and, or, not, ( and )"
            )
        tokens.append(_Token(match[0], position + 1))
        position = match.end()


class _Parser:
    """A recursive-descent parser: one method for each rule of the grammar."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens = tokens
        self.position = 0

    def peek(self) -> _Token:
        return self.tokens[self.position]

    def accept(self, text: str) -> bool:
        """Consume the next token if it is `text`."""
        if self.peek().text != text:
            return False
        self.position += 1
        return True

    def disjunction(self, depth: int) -> Node:
        children = [self.conjunction(depth)]
        while self.accept("or"):
            children.append(self.conjunction(depth))
        return children[0] if len(children) == 1 else Or(tuple(children))

    def conjunction(self, depth: int) -> Node:
        children = [self.negation(depth)]
        while self.accept("and"):
            children.append(self.negation(depth))
        return children[0] if len(children) == 1 else And(tuple(children))

    def negation(self, depth: int) -> Node:
        token = self.peek()
        if depth > MAX_DEPTH:
            raise ConfigError(
                f"column {token.column}: nested deeper than {MAX_DEPTH}: "
                "name a part of it under `derived`"
            )
        if self.accept("not"):
            return Not(self.negation(depth + 1))
        if self.accept("("):
            node = self.disjunction(depth + 1)
            if not self.accept(")"):
                column = self.peek().column
                raise ConfigError(
                    f"column {column}: expected `)` for the `(` at column {token.column}"
                )
            return node
        if token.text in _KEYWORDS or token.text in ("", ")"):
            actual = repr(token.text) if token.text else "the end"
            raise ConfigError(
                f"column {token.column}: expected an id, `not` or `(`, found {actual}"
            )
        self.position += 1
        return Name(token.text)
