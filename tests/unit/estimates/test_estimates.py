"""Estimates, against values derived by hand in the docstrings.

Tabled quantiles: z = 1.959964; t(.975) with 1, 3, 7 degrees of freedom = 12.7062, 3.182446,
2.364624.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.statistics.estimates import estimate, wilson


def test_real_valued_scores_get_students_interval() -> None:
    """1, 2, 3, 6: mean 3, s² = (4+1+0+9)/3 = 14/3, SE = √(14/12) = 1.080123.

    Half width 3.18245·SE = 3.437440.
    """
    score = estimate("m", "s", [1.0, 2.0, 3.0, 6.0])
    assert (score.mean, score.n, score.unscored) == (3.0, 4, 0)
    assert score.stderr == pytest.approx(1.080123, abs=1e-6)
    assert (score.ci_low, score.ci_high) == pytest.approx((-0.437440, 6.437440), abs=1e-4)


def test_draws_of_one_prompt_are_not_prompts() -> None:
    """x: 1, 3 and y: 5, 7. Mean 4; residual sums −4, +4; SE² = 2/1 · (16+16)/4² = 4, SE 2.

    Half width 12.7062·2 (1 df). As four prompts it would be SE² = (9+1+1+9)/3/4 = 5/3: less.
    """
    score = estimate("m", "s", [1.0, 3.0, 5.0, 7.0], ["x", "x", "y", "y"])
    assert score.stderr == pytest.approx(2.0)
    assert score.ci_high == pytest.approx(4 + 25.4124, abs=1e-3)
    assert estimate("m", "s", [1.0, 3.0, 5.0, 7.0]).stderr == pytest.approx(math.sqrt(5 / 3))


def test_independent_yes_no_scores_get_wilsons_interval() -> None:
    """8 of 10, z² = 3.841459: centre (.8+.1920729)/1.3841459 = .716740.

    Half width 1.959964·√(.016+.00960365)/1.3841459 = 1.959964·.1600114/1.3841459 = .226576.
    """
    score = estimate("m", "s", [1.0] * 8 + [0.0] * 2)
    assert (score.ci_low, score.ci_high) == pytest.approx((0.490164, 0.943316), abs=2e-5)
    assert score.stderr == pytest.approx(math.sqrt(0.8 * 0.2 / 9))


def test_yes_no_scores_that_agree_within_prompts_count_as_prompts_or_fewer() -> None:
    """Four prompts of two draws that always agree, two of them yes: p = 1/2.

    Residual sums ±1, SE² = 4/3·4/64 = 1/12; deff = (1/12)·7/(1/4) = 7/3;
    n_eff = 8·3/7·(t7/t3)² = 3.428571·(2.364624/3.182446)² = 1.892850;
    symmetric about 1/2: half = z·√(1/(4n)+z²/(4n²))/(1+z²/n) = z/(2√(n+z²))
    = 1.959964/(2·√5.734309) = .409238.
    """
    score = estimate("m", "s", [1.0, 1, 1, 1, 0, 0, 0, 0], ["a", "a", "b", "b", "c", "c", "d", "d"])
    assert score.ci_low == pytest.approx(0.5 - 0.409238, abs=2e-5)
    assert score.ci_high == pytest.approx(0.5 + 0.409238, abs=2e-5)


@pytest.mark.parametrize(("value", "low", "high"), [(0.0, 0.0, 0.489890), (1.0, 0.510110, 1.0)])
def test_at_the_edges_prompts_are_counted_not_draws(value: float, low: float, high: float) -> None:
    """All of 4 prompts × 5 draws alike: Wilson's interval with n = 4.

    At p = 0 the upper end is z²/(n+z²) = 3.841459/7.841459 = .489891.
    """
    score = estimate("m", "s", [value] * 20, [f"p{i // 5}" for i in range(20)])
    assert (score.ci_low, score.ci_high) == pytest.approx((low, high), abs=2e-6)
    assert score.n == 20


def test_mixed_prompts_are_not_more_certain_than_independent_scores() -> None:
    """One yes and one no per prompt: SE 0, but no narrower than Wilson's interval of 8 scores."""
    score = estimate("m", "s", [1.0, 0.0] * 4, [f"p{i // 2}" for i in range(8)])
    low, high = wilson(0.5, 8)
    assert score.stderr == 0
    assert score.ci_low is not None
    assert score.ci_high is not None
    assert score.ci_low <= low < high <= score.ci_high


def test_unknown_is_left_out_and_counted() -> None:
    score = estimate("m", "s", [None, 1.0, None, 0.0])
    assert (score.mean, score.n, score.unscored) == (0.5, 2, 2)


@pytest.mark.parametrize("scores", [[], [None, None]])
def test_nothing_known_is_none(scores: list[float | None]) -> None:
    score = estimate("m", "s", scores)
    assert (score.mean, score.stderr, score.ci_low, score.ci_high, score.n) == (
        None,
        None,
        None,
        None,
        0,
    )
    assert score.unscored == len(scores)


@pytest.mark.parametrize("clusters", [["p"], ["p", "p", "p"]])
def test_one_prompt_tells_nothing_of_prompts(clusters: list[str]) -> None:
    score = estimate("m", "s", [1.0] * len(clusters), clusters)
    assert score.mean == 1.0
    assert (score.stderr, score.ci_low, score.ci_high) == (None, None, None)


def test_a_measurement_that_happens_to_be_zero_is_no_share() -> None:
    """KL of 0, 0, 0 with `proportion=False`: Student's interval, of width 0, not Wilson's."""
    score = estimate("kl", "s", [0.0, 0.0, 0.0], proportion=False)
    assert (score.ci_low, score.ci_high) == (0.0, 0.0)


def test_scores_and_clusters_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        estimate("m", "s", [1.0, 0.0], ["p"])


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, None]), st.sampled_from("abcdef")), max_size=40)
)
def test_the_interval_holds_the_mean_and_stays_a_share(
    rows: list[tuple[float | None, str]],
) -> None:
    score = estimate("m", "s", [value for value, _ in rows], [name for _, name in rows])
    assert score.n + score.unscored == len(rows)
    if score.ci_low is not None:
        assert score.mean is not None
        assert score.ci_high is not None
        assert 0 <= score.ci_low <= score.mean <= score.ci_high <= 1
        assert score.ci_low < score.ci_high
