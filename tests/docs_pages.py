"""The pages of the documentation, and what is in their fenced blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path for path in DOCS.rglob("*.md") if not {"_build", "api"} & set(path.relative_to(DOCS).parts)
)
"""Without the API pages, which each build writes."""


def fences(text: str) -> Iterator[tuple[str, str, str]]:
    """(line before the fence, its language, what is inside) of every fenced block."""
    pattern = r"^(?:(\S[^\n]*)\n+)?```([^\n]*)\n(.*?)^```$"
    yield from re.findall(pattern, text, re.MULTILINE | re.DOTALL)


def blocks(marker: str) -> list[tuple[str, str]]:
    """(page, block) of every fenced block after a line that matches `marker`."""
    return [
        (page.relative_to(DOCS).as_posix(), inside)
        for page in PAGES
        for before, _, inside in fences(page.read_text(encoding="utf-8"))
        if re.fullmatch(marker, before)
    ]


def name_of(page: Path) -> str:
    """The page as a test's name: its path in the project."""
    return page.relative_to(ROOT).as_posix()
