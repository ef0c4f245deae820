"""The mean change over runs: by hand, and how often its interval holds the truth.

t(.975) with 1 degree of freedom = 12.7062.
"""

from __future__ import annotations

import numpy as np
import pytest
from report_toys import reply

from cai.evals.headline_changes import changes_across_runs
from cai.statistics.across_runs import mean_change


def test_mean_over_runs_by_hand() -> None:
    """Runs of −.02 and .01 on every prompt: mean −.005. A resample's mean of two drawn runs has a
    standard deviation of .015/√2, so half = 12.7062·√2·.015/√2 = .1906.
    """
    gaps = [{"a": [-0.02], "b": [-0.02, -0.02]}, {"a": [0.01], "b": [0.01]}]
    change = mean_change("m", "policy-sft", gaps)
    assert change.by_run == pytest.approx((-0.02, 0.01))
    assert change.mean == pytest.approx(-0.005)
    assert (change.runs, change.n) == (2, 5)
    assert change.ci_low == pytest.approx(-0.005 - 0.1906, rel=0.05)
    assert change.ci_high == pytest.approx(-0.005 + 0.1906, rel=0.05)
    assert mean_change("m", "policy-sft", gaps) == change, "the same resamples each time"


def test_prompts_are_the_same_in_all_runs() -> None:
    """Prompts of gaps 0 and 1, alike in 50 runs: the mean is that of the drawn prompts, and more
    runs do not average it out. Its standard deviation is √(1/4/2) = .354; with prompts drawn for
    each run by itself it would be .354/√50 = .05.
    """
    change = mean_change("m", "s", [{"a": [0.0], "b": [1.0]}] * 50)
    assert change.ci_low is not None
    assert 0.5 - change.ci_low > 0.45


def test_no_interval_where_nothing_is_known_of_the_spread() -> None:
    single = mean_change("m", "s", [{"a": [0.5], "b": [0.0]}])
    assert (single.mean, single.ci_low, single.runs) == (0.25, None, 1)
    alike = mean_change("m", "s", [{"a": [0.0]}, {"a": [0.0]}])
    assert (alike.mean, alike.ci_low) == (0.0, None)
    partly = mean_change("m", "s", [{}, {"a": [0.5]}])
    assert (partly.by_run, partly.mean, partly.runs) == ((None, 0.5), 0.5, 1)


def test_a_run_without_a_drawn_prompt_has_no_part_in_that_resample() -> None:
    change = mean_change("m", "s", [{"a": [0.5]}, {"b": [0.0]}, {"c": [0.25]}])
    assert change.ci_low is not None
    assert change.ci_low == change.ci_low, "not a NaN"


def test_changes_of_graded_replies() -> None:
    """Run 1: policy right on both prompts, sft wrong on one. Run 2: the other way round."""
    first = [reply("a"), reply("b"), reply("a", "sft"), reply("b", "sft", correct=False)]
    second = [reply("a"), reply("b", correct=False), reply("a", "sft"), reply("b", "sft")]
    (change,) = changes_across_runs([first, second])
    assert (change.metric, change.subject) == ("refusal.incorrect_rate.disallowed", "policy-sft")
    assert change.by_run == (-0.5, 0.5)
    assert (change.mean, change.n) == (0.0, 4)


def test_the_interval_holds_the_truth_for_few_runs() -> None:
    """Runs and prompts both vary: of 150 simulated sets of three runs, 93 % or more hold it."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(150):
        of_run, of_prompt = rng.normal(0, 0.1, (3, 1)), rng.normal(0, 0.2, (1, 20))
        values = -0.1 + of_run + of_prompt + rng.normal(0, 0.2, (3, 20))
        gaps = [{str(i): [value] for i, value in enumerate(run)} for run in values.tolist()]
        change = mean_change("m", "s", gaps)
        assert change.ci_low is not None
        assert change.ci_high is not None
        held += change.ci_low <= -0.1 <= change.ci_high
    assert held >= 0.93 * 150
