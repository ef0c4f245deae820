"""Paired differences: by hand, and how often their intervals hold the true difference.

z = 1.959964, z² = 3.841459; t(.975) with 2 degrees of freedom = 4.302653.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from scipy import stats

from cai.statistics.estimates import wilson
from cai.statistics.paired import paired_difference

Cells = tuple[int, int, int, int]
"""Prompts on which both, only a, only b, neither are 1."""
RATES = [(0.03, 0.03), (0.03, 0.1), (0.1, 0.1), (0.1, 0.4), (0.4, 0.4)]


def scores_of(cells: Cells) -> tuple[list[float], list[float], list[str]]:
    both, first, second, neither = cells
    a = [1.0] * (both + first) + [0.0] * (second + neither)
    b = [1.0] * both + [0.0] * first + [1.0] * second + [0.0] * neither
    return a, b, [str(i) for i in range(len(a))]


def test_newcombes_interval_of_a_table() -> None:
    """Newcombe (1998), table II: 36 both, 12 only a, 2 only b, 0 neither; n = 50.

    p = 48/50, 38/50. Wilson: [.865399, .988961], [.625873, .857026]. ad − bc = 0 − 24 < 0, so the
    correlation is uncorrected: −24/√(48·2·38·12) = −.114708.
    below = √(.094601² + 2·.114708·.094601·.097026 + .097026²) = .143070: low .2 − .143070
    above = √(.134127² + 2·.114708·.134127·.028961 + .028961²) = .140428: high .2 + .140428.
    """
    change = paired_difference(*scores_of((36, 12, 2, 0)))
    assert wilson(0.96, 50) == pytest.approx((0.865399, 0.988961), abs=1e-5)
    assert wilson(0.76, 50) == pytest.approx((0.625873, 0.857026), abs=1e-5)
    assert change.mean == pytest.approx(0.2)
    assert (change.ci_low, change.ci_high) == pytest.approx((0.056930, 0.340428), abs=1e-5)
    assert change.relative == pytest.approx(0.2 / 0.76)


def test_a_positive_correlation_is_corrected() -> None:
    """20 both, 12 only a, 2 only b, 16 neither: ad − bc − n/2 = 320 − 24 − 25 = 271.

    phi = 271/√(32·18·22·28) = .454954. Wilson of .64 begins at .501410, of .44 ends at .576940:
    below = √(.138590² − 2·.454954·.138590·.136940 + .136940²) = .143844.
    """
    change = paired_difference(*scores_of((20, 12, 2, 16)))
    assert change.ci_low == pytest.approx(0.2 - 0.143844, abs=1e-5)


def test_all_against_none_still_has_an_interval() -> None:
    """All of 4 against none of 4: each Wilson end is .489891 off, so low = 1 − √2·.489891."""
    change = paired_difference([1.0] * 4, [0.0] * 4, list("wxyz"))
    assert (change.ci_low, change.ci_high) == pytest.approx((1 - 0.692811, 1.0), abs=2e-5)
    assert (change.relative, change.relative_low) == (None, None), "relative to 0: undefined"


def test_no_change_where_neither_side_ever_occurs_is_not_certain() -> None:
    """0 of 18 on both sides: z²/(n + z²) = .175878 either way."""
    change = paired_difference([0.0] * 18, [0.0] * 18, scores_of((0, 0, 0, 18))[2])
    assert (change.ci_low, change.ci_high) == pytest.approx((-0.175878, 0.175878), abs=1e-5)


def test_other_scores_get_students_interval_of_the_differences() -> None:
    """Differences 1, 2, 6: mean 3, s² = (4+1+9)/2 = 7, SE = √(7/3), half = 4.302653·1.527525."""
    change = paired_difference([11.0, 4.0, 8.0], [10.0, 2.0, 2.0], list("xyz"))
    assert (change.mean, change.stderr) == pytest.approx((3.0, math.sqrt(7 / 3)))
    assert change.ci_high == pytest.approx(3 + 4.302653 * math.sqrt(7 / 3), abs=1e-4)
    constant = paired_difference([2.5] * 4, [1.0] * 4, list("wxyz"))
    assert (constant.mean, constant.ci_low, constant.ci_high) == (1.5, None, None)


def test_draws_of_one_prompt_are_not_prompts() -> None:
    """Two prompts of 50 equal pairs, gaps 0 and 1: SE² = 2·2·25²/100² = 1/4, not 1/396."""
    a, b = [0.0] * 50 + [1.0] * 50, [0.0] * 100
    change = paired_difference(a, b, ["x"] * 50 + ["y"] * 50)
    assert (change.mean, change.stderr) == pytest.approx((0.5, 0.5))
    assert change.ci_low is not None
    assert change.ci_low < 0


def test_pairs_with_an_unknown_side_are_counted_not_guessed() -> None:
    change = paired_difference([1.0, None, 1.0, 0.0], [0.0, 0.0, None, 0.0], list("wxyz"))
    assert (change.mean, change.n, change.unscored) == (0.5, 2, 2)
    nothing = paired_difference([None], [1.0], ["p"])
    assert (nothing.mean, nothing.ci_low, nothing.n, nothing.unscored) == (None, None, 0, 1)
    single = paired_difference([1.0], [0.0], ["p"])
    assert (single.mean, single.ci_low, single.stderr) == (1.0, None, None)


# ---- coverage ----


@functools.cache
def intervals(cells: Cells) -> tuple[tuple[float, float], tuple[float, float]]:
    """(of the difference, of the relative one; unbounded where there is none)."""
    change = paired_difference(*scores_of(cells), proportion=True)
    assert change.ci_low is not None
    assert change.ci_high is not None
    relative = change.relative_low, change.relative_high
    known = (relative[0] or 0.0, relative[1] or 0.0) if relative[0] is not None else None
    return (change.ci_low, change.ci_high), known or (-math.inf, math.inf)


def cell_shares(rate_a: float, rate_b: float, shared: float) -> list[float]:
    """Chances of the four cells where a share `shared` of prompts has one threshold for both."""
    both = shared * min(rate_a, rate_b) + (1 - shared) * rate_a * rate_b
    return [both, rate_a - both, rate_b - both, 1 - rate_a - rate_b + both]


@pytest.mark.parametrize("n", [18, 72])
@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_intervals_of_one_draw_a_prompt_hold_the_truth(
    n: int, rates: tuple[float, float], shared: float
) -> None:
    tables = np.random.default_rng(0).multinomial(n, cell_shares(*rates, shared), size=500)
    truth = rates[0] - rates[1], rates[0] / rates[1] - 1
    held = np.zeros(2)
    for table in tables:
        held += [
            low <= true <= high
            for true, (low, high) in zip(truth, intervals(tuple(table.tolist())), strict=True)
        ]
    assert held[0] >= 0.93 * len(tables)
    assert held[1] >= 0.93 * len(tables)


def drawn_pairs(
    rates: tuple[float, float], n: int, draws: int, data_sets: int
) -> tuple[np.ndarray, np.ndarray]:
    """(data sets, prompts, draws) of 0 and 1 for each side.

    A prompt's two chances are beta distributed with intraclass correlation 0.3, at one quantile for
    both sides on 60 % of the prompts.
    """
    rng = np.random.default_rng(1)
    first = rng.random((data_sets, n))
    second = np.where(rng.random(first.shape) < 0.6, first, rng.random(first.shape))
    size = 1 / 0.3 - 1
    sides = []
    for rate, quantiles in zip(rates, (first, second), strict=True):
        chances = stats.beta.ppf(quantiles, rate * size, (1 - rate) * size)
        sides.append((rng.random((data_sets, n, draws)) < chances[..., None]).astype(float))
    return sides[0], sides[1]


@pytest.mark.parametrize("n", [18, 72])
@pytest.mark.parametrize("rates", RATES)
def test_intervals_of_two_draws_a_prompt_hold_the_truth(n: int, rates: tuple[float, float]) -> None:
    names = [str(i) for i in range(n) for _ in range(2)]
    held = 0
    sides = drawn_pairs(rates, n, 2, 300)
    for a, b in zip(*sides, strict=True):
        change = paired_difference(a.ravel().tolist(), b.ravel().tolist(), names, proportion=True)
        assert change.ci_low is not None
        assert change.ci_high is not None
        held += change.ci_low <= rates[0] - rates[1] <= change.ci_high
    assert held >= 0.93 * len(sides[0])


def test_percentile_bootstrap_does_not() -> None:
    """Why it is not used: at 18 prompts, 3 and 3 %, some samples do not vary at all."""
    a, b = drawn_pairs((0.03, 0.03), 18, 2, 300)
    rng = np.random.default_rng(2)
    held = 0
    for gaps in (a - b).mean(axis=2):
        means = gaps[rng.integers(18, size=(500, 18))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        held += low < high and low <= 0 <= high
    assert held < 0.85 * 300
