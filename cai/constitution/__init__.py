"""Constitutions: what they may say, how they are read, checked, compared and shown."""

from cai.constitution.check import Finding, lint
from cai.constitution.digest import Change, diff, digests
from cai.constitution.load import find, load
from cai.constitution.schema import (
    ClassRule,
    CompareExample,
    Constitution,
    CritiqueExample,
    Examples,
    Principle,
    Proposition,
    Rubric,
)
from cai.constitution.show import overview
from cai.constitution.source import Source, explain, parse, read_yaml

__all__ = [
    "Change",
    "ClassRule",
    "CompareExample",
    "Constitution",
    "CritiqueExample",
    "Examples",
    "Finding",
    "Principle",
    "Proposition",
    "Rubric",
    "Source",
    "diff",
    "digests",
    "explain",
    "find",
    "lint",
    "load",
    "overview",
    "parse",
    "read_yaml",
]
