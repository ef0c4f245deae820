"""Rows of public data sets under the names of our fields, known by their columns.

A row that has the fields already keeps them. Left out: what a set's licence allows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from cai.records import Kind

Fields = dict[str, Any]
BORDERLINE = "borderline"
"""Category of benign prompts that look harmful and are not."""
_OR_BENCH = re.compile(r"or-?bench", re.IGNORECASE)


def renamed_row(row: Mapping[str, Any], location: str) -> dict[str, Any]:
    """The row with `prompt`, `kind` and `category` of the set that its columns are those of.

    Args:
        row: under the names of its file.
        location: of the row, with the name of its file.

    Returns:
        The row itself, if the columns are those of no set.
    """
    for columns, read in SETS:
        if columns <= row.keys():
            fields = read(row, location)
            if fields:
                given = {"kind": row["kind"]} if row.get("kind") else {}
                return dict(row) | fields | given
    return dict(row)


def _xstest(row: Mapping[str, Any], location: str) -> Fields:
    """arXiv:2308.01263: 250 safe prompts that look unsafe, and 200 unsafe ones. Files without
    labels have types that begin with contrast_ for the unsafe ones.
    """
    label, sort = row.get("label"), str(row["type"])
    if label is None:
        label = "unsafe" if sort.startswith("contrast_") else "safe"
    if label not in ("safe", "unsafe"):
        return {}
    is_safe = label == "safe"
    if is_safe:
        return _fields(row["prompt"], "benign", BORDERLINE)
    return _fields(row["prompt"], "disallowed", sort)


def _advbench(row: Mapping[str, Any], location: str) -> Fields:
    """arXiv:2307.15043: `target` is the beginning of a reply that complies."""
    return _fields(row["goal"], "disallowed")


def _harmbench(row: Mapping[str, Any], location: str) -> Fields:
    """arXiv:2402.04249: a contextual behaviour follows its context."""
    context, behavior = row.get("ContextString"), row["Behavior"]
    text = f"{context}\n\n---\n\n{behavior}" if context else behavior
    return _fields(text, "disallowed", row.get("SemanticCategory"))


def _sorry_bench(row: Mapping[str, Any], location: str) -> Fields:
    """arXiv:2406.14598: the request is the only one of `turns`."""
    text = row["turns"]
    if isinstance(text, list) and len(text) == 1:
        return _fields(text[0], "disallowed", str(row["category"]))
    return {}


def _or_bench(row: Mapping[str, Any], location: str) -> Fields:
    """arXiv:2405.20947: its parts have the same columns, and their names in those of the files."""
    if row.keys() != {"prompt", "category"} or not _OR_BENCH.search(location):
        return {}
    if "toxic" in location.lower():
        return _fields(row["prompt"], "disallowed", row["category"])
    return _fields(row["prompt"], "benign", BORDERLINE)


def _real_toxicity(row: Mapping[str, Any], location: str) -> Fields:
    """arXiv:2009.11462: the text of the prompt is below it, beside its scores."""
    prompt = row["prompt"]
    if isinstance(prompt, Mapping) and isinstance(prompt.get("text"), str):
        return {"prompt": prompt["text"]}
    return {}


def _truthful(row: Mapping[str, Any], location: str) -> Fields:
    """arXiv:2109.07958: the CSV file of its repository."""
    return {"prompt": row["Question"]}


def _truthful_hub(row: Mapping[str, Any], location: str) -> Fields:
    return {"prompt": row["question"]}


def _fields(prompt: Any, kind: Kind, category: str | None = None) -> Fields:
    fields = {"prompt": prompt, "kind": kind}
    return fields | ({"category": category} if category else {})


SETS: tuple[tuple[frozenset[str], Callable[[Mapping[str, Any], str], Fields]], ...] = (
    (frozenset(("Behavior", "BehaviorID")), _harmbench),
    (frozenset(("goal", "target")), _advbench),
    (frozenset(("prompt", "type", "label")), _xstest),
    (frozenset(("prompt", "type", "completion", "final_label")), _xstest),
    (frozenset(("turns", "category", "prompt_style")), _sorry_bench),
    (frozenset(("prompt", "category")), _or_bench),
    (frozenset(("prompt", "continuation")), _real_toxicity),
    (frozenset(("Question", "Correct Answers")), _truthful),
    (frozenset(("question", "correct_answers")), _truthful_hub),
)
"""(columns, what reads a row that has them): the first that gives fields is taken."""
COLUMNS = frozenset[str]().union(*(columns for columns, _ in SETS))
"""Names that tell the separator of a CSV file."""
