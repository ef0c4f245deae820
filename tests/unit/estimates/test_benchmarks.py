"""Changes of benchmark results: by samples, else from standard errors, else with a reason."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cai.statistics.benchmarks import (
    BenchmarkResult,
    benchmark_changes,
    benchmark_scores,
    is_mean_of,
)


def result(subject: str, values: list[float | None] | None = None, **fields: Any) -> Any:
    samples = None if values is None else {(f"s{i}", "0"): v for i, v in enumerate(values)}
    known = [v for v in values or [] if v is not None]
    given = {
        "metric": "lm_eval.sums.acc",
        "subject": subject,
        "mean": sum(known) / len(known) if known else None,
        "stderr": None,
        "n": len(known),
        "samples": samples,
    }
    return BenchmarkResult(**(given | fields))


def test_samples_are_paired() -> None:
    """Of 4 questions the policy loses one that base had: -1/4, on 4 pairs."""
    base, policy = result("base", [1, 1, 0, 0]), result("policy", [1, 0, 0, 0])
    (change,) = benchmark_changes([base, policy])
    assert (change.score.metric, change.score.subject) == (
        "lm_eval.sums.acc.change",
        "policy-base",
    )
    assert (change.score.mean, change.score.n, change.basis) == (-0.25, 4, "samples")
    assert change.score.ci_low is not None


def test_a_sample_of_one_side_is_unscored() -> None:
    (change,) = benchmark_changes([result("base", [1, 1, None]), result("sft", [1, 0, 1, 1])])
    assert (change.score.n, change.score.unscored) == (2, 2)


def test_without_samples_the_standard_errors_add_up() -> None:
    """sqrt(0.03² + 0.04²) = 0.05; 1.96 · 0.05 = 0.098."""
    base = result("base", mean=0.5, stderr=0.03, n=100, reason="no samples of sums")
    policy = result("policy", mean=0.4, stderr=0.04, n=100)
    (change,) = benchmark_changes([base, policy])
    assert change.score.stderr == pytest.approx(0.05)
    assert change.score.ci_high == pytest.approx(-0.1 + 0.098, abs=1e-4)
    assert (change.basis, change.reason) == ("standard errors", "base: no samples of sums")
    (first, _) = benchmark_scores([base, policy])
    assert first.ci_low == pytest.approx(0.5 - 1.96 * 0.03, abs=1e-4)


def test_what_is_unknown_has_a_reason() -> None:
    base = result("base", mean=0.5, n=10)
    cases = {
        "base: no samples, and no standard error of base": result("sft", mean=0.4, n=10),
        "sft: no number for acc": result("sft", mean=None, n=10, reason="no number for acc"),
        "not comparable: they differ in few-shot examples (none, 5)": result(
            "sft", mean=0.4, n=10, settings={"few-shot examples": "5"}
        ),
    }
    for reason, sft in cases.items():
        (change,) = benchmark_changes([base, sft])
        assert (change.reason, change.basis, change.score.ci_low) == (reason, None, None)
    (alike,) = benchmark_changes([result("base", [0.5, 0.25]), result("sft", [0.6, 0.35])])
    assert alike.score.mean == pytest.approx(0.1)


def test_subjects_are_compared_in_order() -> None:
    rows = [result(name, [1, 0]) for name in ("policy", "sft", "base", "other")]
    subjects = [change.score.subject for change in benchmark_changes(rows)]
    assert subjects == ["sft-base", "policy-base", "policy-sft"]


def test_a_metric_that_is_no_mean_has_no_samples() -> None:
    samples: dict[tuple[str, str], float | None] = {("a", "0"): 1.0, ("b", "0"): 0.0}
    assert is_mean_of(samples, 0.5)
    assert not is_mean_of(samples, math.log(2))
    assert not is_mean_of({("a", "0"): None}, 0.0)
