"""The expression language: precedence, syntax errors, and evaluation against truth tables."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import ConfigError
from cai.rubric.expression import (
    And,
    Name,
    Node,
    Not,
    Or,
    assignment_columns,
    evaluate,
    names_in,
    parse,
    truth_column,
)


def test_not_binds_tighter_than_and_which_binds_tighter_than_or() -> None:
    a, b, c = Name("a"), Name("b"), Name("c")
    assert parse("a or b and not c") == Or((a, And((b, Not(c)))))
    assert parse("(a or b) and not c") == And((Or((a, b)), Not(c)))
    assert parse("not not a") == Not(Not(a))
    assert parse("a_1 and b-2") == And((Name("a_1"), Name("b-2")))
    # Ids that begin with a keyword.
    assert parse("android or nothing") == Or((Name("android"), Name("nothing")))
    assert names_in(parse("a or b and not c")) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column 1: expected an id"),
        ("a and", "column 6: expected an id"),
        ("a b", "column 3: unexpected 'b'"),
        ("(a or b", "column 8: expected `)` for the `(` at column 1"),
        ("a)", "column 2: unexpected ')'"),
        ("a & b", "column 3: cannot read '&'"),
        ("Apologises", "column 1: cannot read 'A'"),
        ("or a", "column 1: expected an id"),
        ("a and ()", "column 8: expected an id"),
        ("(" * 100_000 + "a", "nested deeper"),
        ("not " * 100_000 + "a", "nested deeper"),
    ],
)
def test_the_parser_says_where_it_stopped(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert message in str(caught.value)


nodes = st.recursive(
    st.sampled_from(["a", "b", "c"]).map(Name),
    lambda inner: (
        inner.map(Not)
        | st.lists(inner, min_size=2, max_size=3).map(tuple).map(And)
        | st.lists(inner, min_size=2, max_size=3).map(tuple).map(Or)
    ),
    max_leaves=8,
)


def written(node: Node) -> str:
    match node:
        case Name(id):
            return id
        case Not(child):
            return f"not ({written(child)})"
        case And(children):
            return " and ".join(f"({written(child)})" for child in children)
        case Or(children):
            return " or ".join(f"({written(child)})" for child in children)


@given(nodes)
def test_what_is_written_is_read_back_and_the_table_says_what_holds_says(node: Node) -> None:
    assert parse(written(node)) == node
    table = truth_column(node, assignment_columns(["a", "b", "c"]))
    # Bit 0 of the row number is the first name.
    for row, (c, b, a) in enumerate(product([False, True], repeat=3)):
        assert table[row] == evaluate(node, {"a": a, "b": b, "c": c})
