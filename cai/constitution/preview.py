"""A constitution at a glance, as plain text. Nothing is printed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cai.constitution.schema import Constitution, Principle, Rubric


def overview(constitution: Constitution) -> str:
    """Name, version, language, the table of principles, categories with their chance of being drawn, examples, rubric."""
    principles, examples = constitution.principles, constitution.examples
    blocks = [f"{constitution.name} {constitution.version} ({constitution.language})"]
    if constitution.description:
        blocks.append(constitution.description)
    blocks.append(f"{len(principles)} principles")
    if principles:
        heads = ("id", "category", "weight", "applies to", "critique", "revision", "compare")
        blocks += [_table(heads, [_row(principle) for principle in principles]), _categories(principles)]
    blocks.append(f"Examples: {len(examples.critique)} critique, {len(examples.compare)} compare")
    blocks.append(_rubric(constitution.rubric) if constitution.rubric else "No rubric")
    return "\n\n".join(blocks) + "\n"


def _row(principle: Principle) -> tuple[str, ...]:
    texts = (principle.critique, principle.revision, principle.compare)
    applies = ", ".join(principle.applies_to) or "nothing"
    return (principle.id, principle.category, f"{principle.weight:g}", applies, *("yes" if text else "-" for text in texts))


def _categories(principles: Sequence[Principle]) -> str:
    count = Counter(principle.category for principle in principles)
    total = sum(principle.weight for principle in principles)
    rows = [
        (name, str(count[name]), f"{sum(one.weight for one in principles if one.category == name) / total:.0%}")
        for name in sorted(count)
    ]
    return _table(("category", "principles", "share of weight"), rows)


def _rubric(rubric: Rubric) -> str:
    lines = [f"Rubric: {len(rubric.propositions)} propositions, {len(rubric.derived)} derived"]
    for behaviour, rules in rubric.classes.items():
        kinds = ", ".join(kind for kind, name in rubric.behaviours.items() if name == behaviour) or "no kind"
        classes = " > ".join(rule.name if rule.correct else f"{rule.name} (incorrect)" for rule in rules)
        lines.append(f"  {behaviour} (for {kinds}): {classes}")
    return "\n".join(lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
