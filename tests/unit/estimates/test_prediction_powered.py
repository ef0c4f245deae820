"""The corrected win rate, against values derived by hand in the docstrings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cai.statistics.prediction_powered import corrected_mean


def test_by_hand() -> None:
    """Seen: y = 1, 0, 1, 0 and f = .9, .1, .9, .5; rest: f = .8, .8, .6, .6.

    mean(f) = .6, var(f) = (.09+.25+.09+.01)/3 = .146667; cov = (.5·.3+.5·.5+.5·.3+.5·.1)/3 = .2;
    λ = .2/((1+4/4)·.146667) = .681818. θ = .5 + λ·(.7−.6) = .568182.
    y − λf = .386364, −.068182, .386364, −.340909; mean .090909;
    SE² = 4/3·1/16·(.087293+.025310+.087293+.186467) = .032197.
    Rest: SE² = 4/3·1/16·(4·.01) = .003333. SE² = .032197 + .464876·.003333 = .033747.
    """
    judge = [0.9, 0.1, 0.9, 0.5, 0.8, 0.8, 0.6, 0.6]
    people = [1.0, 0.0, 1.0, 0.0, None, None, None, None]
    score = corrected_mean("m", "s", judge, people, list("abcdefgh"))
    assert score.mean == pytest.approx(0.568182, abs=1e-6)
    assert score.stderr == pytest.approx(math.sqrt(0.033747), abs=1e-5)
    assert (score.n, score.unscored) == (8, 0)


def test_a_useless_judge_leaves_the_mean_of_people() -> None:
    judge = [0.5] * 8
    score = corrected_mean("m", "s", judge, [1.0, 0.0, 1.0, 1.0, *[None] * 4], list("abcdefgh"))
    assert score.mean == 0.75


def test_without_people_nothing_is_known() -> None:
    score = corrected_mean("m", "s", [0.5, None], [None, None], ["a", "b"])
    assert (score.mean, score.n, score.unscored) == (None, 0, 2)


def test_the_interval_covers_whatever_the_judge_s_bias() -> None:
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        chance = rng.beta(2, 2, 330)
        people = (rng.random(330) < chance).astype(float)
        judge = np.clip(chance + 0.15 + rng.normal(0, 0.1, 330), 0, 1)
        seen: list[float | None] = [*people[:30], *[None] * 300]
        score = corrected_mean("m", "s", list(judge), seen, list(map(str, range(330))))
        assert score.ci_low is not None
        assert score.ci_high is not None
        hits.append(score.ci_low <= 0.5 <= score.ci_high)
    assert np.mean(hits) >= 0.92
