"""The README against the disk: short, its table is the documented one, and what it shows exists.

Its commands, settings and links are checked with those of the documentation, in `test_docs.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

from cai.artifacts import STAGES
from cai.report.table import HEADLINE

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LONGEST = 160
"""Lines: what does not fit is documentation."""


def table(text: str, first: str) -> list[str]:
    """The rows of the Markdown table whose header begins with `first`."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    return [line for line in lines[start:] if line.startswith("|")][: lines[start:].index("")]


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= LONGEST


def test_the_demo_table_is_the_one_of_the_figures_page() -> None:
    figures = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    assert table(README, "metric") == table(figures, "metric")


def test_the_demo_table_has_the_rows_of_a_headline_table_in_its_order() -> None:
    """Without those of evaluations on public sets, which the demo has none of. Of `kl.mean`, only
    files of earlier versions have a row, and the demo's rubric does not say P(harm).
    """
    shown = [row.split(" | ")[0].removeprefix("| ") for row in table(README, "metric")[2:]]
    expected = []
    for metric, label in HEADLINE:
        if metric == "kl.at.*":
            expected += [label.replace("*", temperature) for temperature in ("1", "0.7")]
        elif metric.split(".")[0] in ("refusal", "reward", "length") and "p_harm" not in metric:
            expected.append(label)
    assert shown == expected


def test_every_stage_has_a_row_and_a_page() -> None:
    rows = [re.match(r"\| \[(\w+)\]\((\S+)\)", row) for row in table(README, "stage")[2:]]
    assert [row[1] for row in rows if row] == list(STAGES)
    assert all((ROOT / row[2]).exists() for row in rows if row)
