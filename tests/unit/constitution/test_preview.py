"""The overview of a constitution as plain text."""

from __future__ import annotations

from pathlib import Path

from constitution_texts import SMALL, constitution_of, write

from cai.constitution import load_constitution, overview


def test_overview(tmp_path: Path) -> None:
    """Weights 1 and 3: a quarter and three quarters of the draws."""
    text = overview(load_constitution(write(tmp_path, "small.yaml", SMALL)))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "small 1.0.0 (en)",
        "2 principles",
        "no-harm harm 1 disallowed, sensitive, benign yes yes yes",
        "honest honesty 3 disallowed, sensitive, benign yes yes yes",
        "harm 1 25%",
        "honesty 1 75%",
        "Examples: 1 critique, 2 compare",
        "Rubric: 1 propositions, 1 derived",
        "refuse (for disallowed): ideal > bad (incorrect)",
        "comply (for benign): useful",
    ):
        assert line in lines
    assert "No rubric" in overview(constitution_of())
    assert " - - yes" in " ".join(
        overview(constitution_of({"id": "a", "category": "c", "compare": "x"})).split()
    )
