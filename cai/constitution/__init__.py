"""Constitutions: schema, loading, lint, comparison and preview."""

from cai.constitution.diff import Change, diff, digests
from cai.constitution.lint import Finding, lint
from cai.constitution.load import find_constitution, load_constitution, load_with_rubric
from cai.constitution.preview import overview
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
from cai.constitution.yaml_source import Source, explain, parse, read_yaml

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
    "find_constitution",
    "lint",
    "load_constitution",
    "load_with_rubric",
    "overview",
    "parse",
    "read_yaml",
]
