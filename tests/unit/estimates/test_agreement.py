"""Krippendorff's alpha and calibration, by hand."""

from __future__ import annotations

import pytest

from cai.statistics.agreement import ece, entropy, krippendorff, reliability


def test_alpha_by_hand() -> None:
    """Units (0, 0), (1, 1): no disagreement, alpha 1.

    Units (0, 1), (1, 0): D_o = 1; of the 12 ordered pairs of 0, 1, 1, 0 eight differ by one, so
    D_e = 2/3 and alpha = -1/2. A unit of one value is ignored; for equal values alpha is undefined.
    """
    assert krippendorff([[0, 0], [1, 1]]) == 1
    assert krippendorff([[0, 1], [1, 0]]) == pytest.approx(-0.5)
    assert krippendorff([[0, 1], [1, 0], [7]]) == pytest.approx(-0.5)
    assert krippendorff([[1, 1], [1, 1]]) is None
    assert krippendorff([[1]]) is None


def test_calibration_by_hand() -> None:
    """0.75 twice, right once: a gap of 1/4, weight 2/3. 0.95 once, right: 0.05, weight 1/3."""
    assert ece([0.75, 0.75, 0.95], [1, 0, 1]) == pytest.approx(0.25 * 2 / 3 + 0.05 / 3)
    curve = reliability([0.75, 0.75, 1.0], [1, 0, 1])
    assert [tuple(b) for b in curve] == [(0.75, 0.5, 2), (1.0, 1.0, 1)]
    assert ece([], []) is None
    assert (entropy(0.5), entropy(1.0)) == (1.0, 0.0)
