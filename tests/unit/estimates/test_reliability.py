"""Cohen's kappa and Krippendorff's alpha: textbook examples, and what holds for any judgements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.statistics.agreement import krippendorff
from cai.statistics.reliability import (
    agreement,
    cohen_kappa,
    coincidence_tables,
    confusion_tables,
    nominal_alpha,
    ordinal_alpha,
)

RATINGS = st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=2), min_size=1, max_size=12)


def kappa(pairs: Sequence[tuple[int, int]]) -> float:
    return float(cohen_kappa(confusion_tables([[pair] for pair in pairs], range(8)).sum(0)))


def test_kappa_by_hand() -> None:
    """Fifty items: 20 (yes, yes), 5 (yes, no), 10 (no, yes), 15 (no, no).

    p_o = 35/50 = 0.7. The first says yes 25 times, the second 30 times: p_e = 0.5 * 0.6 + 0.5 * 0.4
    = 0.5. kappa = 0.2 / 0.5 = 0.4.
    """
    pairs = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    assert kappa(pairs) == pytest.approx(0.4)
    assert np.isnan(kappa([(1, 1)] * 3))
    assert kappa([(0, 1), (1, 0)]) == pytest.approx(-1)


def test_alpha_of_the_textbook() -> None:
    """Krippendorff (2011), section C: four observers, twelve units, 40 values in pairs.

    Coincidences of (c, c): 7, 10, 8, 4, 3; of (1, 2) and (2, 3) 4/3; of (1, 3), (1, 4), (2, 4) and
    (3, 4) 1/3; each off the diagonal twice. Margins: 9, 13, 10, 5, 3.

    Nominal: 8 of 40 off the diagonal, and 1600 - (81 + 169 + 100 + 25 + 9) = 1216 of the products
    of margins: alpha = 1 - 39 * 8 / 1216 = 0.743.

    Ordinal: the categories' middles are 4.5, 15.5, 27, 34.5, 38.5. Observed squares: 2 * (4/3 *
    (11² + 11.5²) + 1/3 * (22.5² + 30² + 19² + 7.5²)) = 1891. Expected: 2 * 199740. alpha = 1 - 39 *
    1891 / 399480 = 0.815. Interval (section D): 0.849.
    """
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[v for v in unit if v is not None] for unit in zip(*observers, strict=True)]
    tables = coincidence_tables(units, range(1, 6))
    assert tables.sum(0).sum(0) == pytest.approx([9, 13, 10, 5, 3])
    assert float(nominal_alpha(tables.sum(0))) == pytest.approx(0.743, abs=5e-4)
    assert float(ordinal_alpha(tables.sum(0))) == pytest.approx(0.815, abs=5e-4)
    assert krippendorff(units) == pytest.approx(0.849, abs=5e-4)


def test_kappa_counts_every_rater_of_an_item() -> None:
    """Two people against a machine: (1, 1) and (0, 1) on one item, (0, 0) twice on the other.

    p_o = 3/4; people say 1 once in four, the machine twice: p_e = 1/4 * 1/2 + 3/4 * 1/2 = 1/2.
    """
    tables = confusion_tables([[(1, 1), (0, 1)], [(0, 0), (0, 0)]], (0, 1))
    assert float(cohen_kappa(tables.sum(0))) == pytest.approx(0.5)


def test_scores_with_intervals() -> None:
    """The kappa of 0.4 above over fifty items; one item without a judgement is unscored."""
    pairs = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    tables = confusion_tables([*([pair] for pair in pairs), []], (0, 1))
    score = agreement("kappa", "ann/bob", tables, cohen_kappa)
    assert (score.n, score.unscored) == (50, 1)
    assert score.mean == pytest.approx(0.4)
    assert score.ci_low is not None
    assert score.ci_high is not None
    assert 0.05 < score.ci_low < 0.2
    assert 0.6 < score.ci_high < 0.7
    assert score == agreement("kappa", "ann/bob", tables, cohen_kappa)


@pytest.mark.parametrize("pairs", [[], [(1, 1)], [(1, 1), (1, 1), (1, 1)]])
def test_unknown_statistics_are_none(pairs: list[tuple[int, int]]) -> None:
    score = agreement("k", "a", confusion_tables([[p] for p in pairs], (0, 1)), cohen_kappa)
    assert (score.mean, score.ci_low, score.n) == (None, None, len(pairs))


@settings(max_examples=30, deadline=None)
@given(RATINGS)
def test_alpha_does_not_depend_on_who_said_what(ratings: list[list[int]]) -> None:
    swapped = [unit[::-1] for unit in ratings]
    for alpha in (nominal_alpha, ordinal_alpha):
        one, other = (
            float(alpha(coincidence_tables(units, range(1, 5)).sum(0)))
            for units in (ratings, swapped)
        )
        assert one == pytest.approx(other, nan_ok=True)
        assert np.isnan(one) or one <= 1


@settings(max_examples=30, deadline=None)
@given(RATINGS)
def test_kappa_is_symmetric_and_bounded(ratings: list[list[int]]) -> None:
    one = kappa([(a, b) for a, b in ratings])
    assert one == pytest.approx(kappa([(b, a) for a, b in ratings]), nan_ok=True)
    assert np.isnan(one) or -1 - 1e-9 <= one <= 1 + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2).filter(lambda values: len(set(values)) > 1))
def test_identical_raters_agree_perfectly(values: list[int]) -> None:
    assert kappa([(value, value) for value in values]) == pytest.approx(1)
    table = coincidence_tables([[value] * 3 for value in values], range(1, 5)).sum(0)
    assert float(nominal_alpha(table)) == pytest.approx(1)
    assert float(ordinal_alpha(table)) == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(RATINGS)
def test_ordinal_alpha_sees_order_only(ratings: list[list[int]]) -> None:
    """Other numbers in the same order, and the reverse order, give the same alpha."""
    table = coincidence_tables(ratings, range(1, 5)).sum(0)
    reverse = coincidence_tables(ratings, range(4, 0, -1)).sum(0)
    one, other = float(ordinal_alpha(table)), float(ordinal_alpha(reverse))
    assert one == pytest.approx(other, nan_ok=True)
    spread = coincidence_tables([[v**3 for v in unit] for unit in ratings], [1, 8, 27, 64]).sum(0)
    assert float(ordinal_alpha(spread)) == pytest.approx(one, nan_ok=True)
