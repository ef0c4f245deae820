"""Diversity metrics, with values derived by hand."""

from __future__ import annotations

from cai.generate.diversity import distinct_n, diversity_metrics


def test_distinct_by_hand() -> None:
    """a b a b: words 2 of 4; pairs ab, ba, ab: 2 of 3. No run of five words: None."""
    texts = [["a", "b", "a", "b"]]
    assert distinct_n(texts, 1) == 2 / 4
    assert distinct_n(texts, 2) == 2 / 3
    assert distinct_n(texts, 5) is None


def test_boilerplate_and_openings() -> None:
    """Two of four texts share six words in a row; three of four begin alike."""
    texts = [
        "I am not able to help you",
        "so I am not able to help",
        "I am not here",
        "I am not there",
    ]
    metrics = diversity_metrics(texts)
    assert (metrics.boilerplate, metrics.same_opening) == (2 / 4, 3 / 4)
    assert metrics.words == (7 + 7 + 4 + 4) / 4
    assert diversity_metrics([]) == (None,) * 5
