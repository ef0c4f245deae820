"""Prefixes, padding and batches of similar length."""

from __future__ import annotations

from cai.modeling.batching import common_prefix_length, length_batches


def test_common_prefix() -> None:
    """Every row keeps its last token, also one that is a prefix of the others, or equal to them."""
    assert common_prefix_length([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert common_prefix_length([[1, 2], [1, 2, 3]]) == 1
    assert common_prefix_length([[1, 2, 3], [1, 2, 3]]) == 2
    assert common_prefix_length([[1], [2]]) == 0
    assert common_prefix_length([[3, 1, 9], [3, 1, 2], [3, 2, 0]]) == 1


def test_length_batches() -> None:
    assert length_batches([[1] * n for n in (5, 1, 3, 1, 2)], 2) == [[1, 3], [4, 2], [0]]
    assert length_batches([], 2) == []
