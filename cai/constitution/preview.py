"""The overview of a constitution as plain text. Nothing is printed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cai.constitution.schema import Constitution, Principle, Rubric


def overview(constitution: Constitution) -> str:
    """Name, table of principles, categories with their sampling probability, examples, rubric."""
    principles, examples = constitution.principles, constitution.examples
    blocks = [f"{constitution.name} {constitution.version} ({constitution.language})"]
    if constitution.description:
        blocks.append(constitution.description)
    blocks.append(f"{len(principles)} principles")
    if principles:
        header = ("id", "category", "weight", "applies to", "critique", "revision", "compare")
        blocks += [
            _table(header, [_row(principle) for principle in principles]),
            _categories(principles),
        ]
    blocks.append(f"Examples: {len(examples.critique)} critique, {len(examples.compare)} compare")
    blocks.append(_rubric(constitution.rubric) if constitution.rubric else "No rubric")
    return "\n\n".join(blocks) + "\n"


def _row(principle: Principle) -> tuple[str, ...]:
    texts = (principle.critique, principle.revision, principle.compare)
    applies = ", ".join(principle.applies_to) or "nothing"
    has_text = ["yes" if text else "-" for text in texts]
    return (principle.id, principle.category, f"{principle.weight:g}", applies, *has_text)


def _categories(principles: Sequence[Principle]) -> str:
    count = Counter(principle.category for principle in principles)
    total = sum(principle.weight for principle in principles)
    rows = []
    for category in sorted(count):
        weight = sum(p.weight for p in principles if p.category == category)
        rows.append((category, str(count[category]), f"{weight / total:.0%}"))
    return _table(("category", "principles", "share of weight"), rows)


def _rubric(rubric: Rubric) -> str:
    lines = [f"Rubric: {len(rubric.propositions)} propositions, {len(rubric.derived)} derived"]
    for behaviour, rules in rubric.classes.items():
        kinds = [kind for kind, name in rubric.behaviours.items() if name == behaviour]
        classes = [rule.name if rule.correct else f"{rule.name} (incorrect)" for rule in rules]
        lines.append(f"  {behaviour} (for {', '.join(kinds) or 'no kind'}): {' > '.join(classes)}")
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    padded = [[cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(cells).rstrip() for cells in padded)
