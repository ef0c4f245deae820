"""What the card of an export says about its rows: prompts by kind, revisions by principle, labels
by their diagnostics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import get_args

from cai.records import Kind, Preference, Prompt, Revision
from cai.report import labels
from cai.report.cards import OPINIONS, plain_cell
from cai.report.table import cell

MOST = 12
"""Rows of a table; the others are counted together."""


def prompt_details(prompts: Iterable[Prompt]) -> str:
    """Prompts by kind and by category."""
    kinds: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    origins: Counter[str] = Counter()
    for prompt in prompts:
        kinds[prompt.kind or "not known"] += 1
        categories[prompt.category or "none"] += 1
        origins[prompt.origin or "not stated"] += 1
    ordered = Counter({kind: kinds[kind] for kind in (*get_args(Kind), "not known") if kinds[kind]})
    tables = [_table("kind", ordered, sort=False), _table("category", categories)]
    tables.append(_table("origin", origins))
    return "\n\n".join(["## The prompts", *tables])


def revision_details(revisions: Iterable[Revision]) -> str:
    """How many rows are revised, and by which principles those that are kept."""
    kept: Counter[str] = Counter()
    principles: Counter[str] = Counter()
    for revision in revisions:
        if revision.final is None:
            continue
        is_revised = revision.chosen_round is not None
        kept["a revision" if is_revised else "the first reply"] += 1
        if revision.chosen_round is not None:
            principles[revision.rounds[revision.chosen_round].principle] += 1
    tables = [_table("final text", kept)]
    if principles:
        tables.append(_table("principle of the chosen revision", principles))
    return "\n\n".join(["## The revisions", *tables])


def preference_details(preferences: Iterable[Preference]) -> str:
    """Diagnostics of all labels, also of those that are not exported."""
    rows = labels.diagnose(preferences).rows
    lines = ["| diagnostic | value [95 % interval] |", "| --- | ---: |"]
    lines += [f"| {name} | {cell(score)} |" for name, score in rows]
    table = "\n".join(lines)
    note = (
        "Of all labels, also those that are left out. A vote flips when swapping the two replies "
        f"changes which one it prefers. {OPINIONS}"
    )
    return f"## The labels\n\n{table}\n\n{note}"


def _table(name: str, counts: Counter[str], *, sort: bool = True) -> str:
    pairs = counts.most_common() if sort else list(counts.items())
    shown, others = pairs[:MOST], sum(count for _, count in pairs[MOST:])
    rows = [f"| {plain_cell(key)} | {count:,} |" for key, count in shown]
    if others:
        rows.append(f"| {len(pairs) - MOST} others | {others:,} |")
    return "\n".join([f"| {name} | rows |", "| --- | ---: |", *rows])
