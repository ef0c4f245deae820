"""Plain names: words that name nothing in particular are no part of an identifier of `cai`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import cai

PACKAGE = Path(cai.__file__).parent
WORDS = {
    "asked",
    "found",
    "made",
    "own",
    "place",
    "places",
    "said",
    "shop",
    "told",
    "voice",
    "whole",
}
"""Components of snake-case or camel-case names; `it` is refused as a name."""
EXCEPTIONS = {("records.py", "places"): "a key of the rows of pairs"}
"""(file, name) -> reason."""


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of functions, classes, arguments, variables, attributes and import aliases."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.alias() if node.asname:
                yield node.lineno, node.asname
            case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar() if node.name:
                yield node.lineno, node.name
            case ast.MatchMapping() if node.rest:
                yield node.lineno, node.rest


def is_vague(name: str) -> bool:
    components = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
    return name == "it" or not WORDS.isdisjoint(components)


def vague_names(root: Path) -> Iterator[tuple[str, int, str]]:
    """(file, line, name) of each definition of a vague name."""
    for path in sorted(root.rglob("*.py")):
        file = path.relative_to(root).as_posix()
        for line, name in defined_names(ast.parse(path.read_text(encoding="utf-8"))):
            if is_vague(name):
                yield file, line, name


def test_names_of_the_package_are_plain() -> None:
    vague = [
        f"{file}:{line}: {name}"
        for file, line, name in vague_names(PACKAGE)
        if (file, name) not in EXCEPTIONS
    ]
    assert vague == []


def test_exceptions_are_in_use() -> None:
    names = {(file, name) for file, _, name in vague_names(PACKAGE)}
    assert EXCEPTIONS.keys() <= names


def test_vague_names_are_detected(tmp_path: Path) -> None:
    source = """\
import os as shop
class WholeRun:
    own_key: int
def told(place, *asked, **made):
    it = {found: found_rows for found, found_rows in place}
    asked.voice = [ownership for ownership in asked]
    try:
        return lambda said: said.places
    except OSError as whole_error:
        raise
"""
    (tmp_path / "vague.py").write_text(source, encoding="utf-8")
    names = [name for _, _, name in vague_names(tmp_path)]
    expected = (
        "shop WholeRun own_key told place asked made it found found_rows voice said whole_error"
    )
    assert sorted(names) == sorted(expected.split())
