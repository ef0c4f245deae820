"""Scaling laws: fits to small runs, and the prediction of a larger one. Pure arithmetic.

    loss         L(C) = a·C^b + c                 b < 0, c ≥ 0
    pass rate    −log p(C) = α·C^(−k)             k > 0

As in the GPT-4 report (arXiv:2303.08774, section 3), where both are fitted before the large run is
trained. Left out on purpose: laws of two variables, such as parameters and tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cai.errors import UsageError
from cai.seeds import derive
from cai.statistics.estimates import Array, expanded_levels

Law = Literal["loss", "pass_rate"]
DRAWS = 400
"""Bootstrap refits."""
EXPONENTS = (-0.03, -0.1, -0.3, -1.0)
"""Starting points of b."""
FLOORS = (0.1, 0.5, 0.9)
"""Starting points of c, as shares of the lowest loss."""
MIN_POINTS = {"loss": 4, "pass_rate": 3}
"""A fit needs more points than it has parameters: the rest says how far they scatter."""
ITERATIONS = 100
LOW = np.array([-60.0, -7.0, -7.0])
HIGH = np.array([60.0, 2.0, 7.0])
"""Bounds of the parameters of `_minimize`."""


@dataclass(frozen=True)
class Fit:
    """A fitted law: `scale`·(x/`unit`)^`exponent` + `floor`, which is L, or −log p."""

    law: Law
    scale: float
    exponent: float
    floor: float
    unit: float
    """Geometric mean of the x that were fitted: powers of numbers like 1e21 would overflow."""

    @property
    def coefficient(self) -> float:
        """a, or α: the scale for x in its unit of measurement."""
        return float(np.exp(np.log(self.scale) - self.exponent * np.log(self.unit)))

    def curve(self, x: Array) -> Array:
        """L, or −log p, at each x."""
        power: Array = self.scale * (x / self.unit) ** self.exponent
        return power + self.floor

    def __call__(self, x: Array) -> Array:
        """The loss, or the pass rate, at each x."""
        return np.exp(-self.curve(x)) if self.law == "pass_rate" else self.curve(x)


@dataclass(frozen=True)
class Prediction:
    """A law's value at one x, with its 95 % interval for a run there."""

    x: float
    value: float
    low: float
    high: float


def fit(x: Sequence[float], y: Sequence[float], law: Law = "loss") -> Fit:
    """The law of least squares in log space: of log L, or of log(−log p).

    Raises:
        UsageError: too few points, or a value that the law cannot have.
    """
    xs, target = _checked(x, y, law)
    return _fit(xs, target, law)


def predict(
    x: Sequence[float], y: Sequence[float], at: Sequence[float], law: Law = "loss", *, seed: int = 0
) -> list[Prediction]:
    """The law's values at `at`, with intervals from a bootstrap of the residuals.

    Each refit is to the fitted curve with residuals drawn anew. They are enlarged by √(n/(n−p)) for
    p parameters. One more residual is added to each prediction, as a run scatters about its law.
    The interval's ends are at the percentiles of `expanded_levels` for n−p+1 points.
    """
    xs, target = _checked(x, y, law)
    best = _fit(xs, target, law)
    fitted = np.log(best.curve(xs))
    free = len(xs) - (MIN_POINTS[law] - 1)
    residuals = (target - fitted) * np.sqrt(len(xs) / free)
    rng = np.random.default_rng(derive(seed, "scaling", law))
    points = np.array(at, dtype=float)
    noisy = fitted + rng.choice(residuals, (DRAWS, len(xs)))
    scatter = rng.choice(residuals, (DRAWS, len(points)))
    draws = _refitted(xs, noisy, best, points) + scatter
    low, high = np.exp(np.quantile(draws, expanded_levels(free + 1), axis=0))
    if law == "pass_rate":
        low, high = np.exp(-high), np.exp(-low)
    rows = zip(points, best(points), low, high, strict=True)
    return [Prediction(*map(float, row)) for row in rows]


def _checked(x: Sequence[float], y: Sequence[float], law: Law) -> tuple[Array, Array]:
    """(x, what is fitted: log L, or log(−log p))."""
    xs, ys = np.array(x, dtype=float), np.array(y, dtype=float)
    if not (np.isfinite(xs) & (xs > 0)).all():
        raise UsageError("scaling: every x must be a number above 0")
    if law == "loss" and not (np.isfinite(ys) & (ys > 0)).all():
        raise UsageError("scaling: every loss must be a number above 0")
    if law == "pass_rate" and not ((ys > 0) & (ys < 1)).all():
        raise UsageError(
            "scaling: every pass rate must be above 0 and below 1: leave out runs at either end"
        )
    values = len(np.unique(xs))
    if values < MIN_POINTS[law]:
        raise UsageError(
            f"scaling: {values} different values of x: a fit needs {MIN_POINTS[law]} or more"
        )
    return xs, np.log(ys if law == "loss" else -np.log(ys))


def _fit(x: Array, target: Array, law: Law) -> Fit:
    unit = float(np.exp(np.log(x).mean()))
    logs = np.log(x / unit)
    if law == "pass_rate":
        slope, intercept = np.polyfit(logs, target, 1)
        if slope >= 0:
            raise UsageError("scaling: the pass rate does not rise with x: there is no law to fit")
        return Fit(law, float(np.exp(intercept)), float(slope), 0.0, unit)
    lowest = float(target.min())
    center = float(np.exp(target.mean() - lowest))
    starts = [
        [np.log(max(center - floor, 1e-3)), np.log(-b), np.log(floor / (1 - floor))]
        for b in EXPONENTS
        for floor in FLOORS
    ]
    parameters, errors = _minimize(
        logs, np.repeat(target[None] - lowest, len(starts), axis=0), np.array(starts)
    )
    scale, steepness, share = parameters[int(np.argmin(errors))]
    floor = np.exp(lowest) / (1 + np.exp(-share))
    return Fit(law, float(np.exp(scale + lowest)), -float(np.exp(steepness)), float(floor), unit)


def _refitted(x: Array, targets: Array, start: Fit, points: Array) -> Array:
    """log L, or log(−log p), at `points` of the law fitted to each of many targets (B, n)."""
    logs, far = np.log(x / start.unit), np.log(points / start.unit)
    if start.law == "pass_rate":
        slopes, intercepts = np.polyfit(logs, targets.T, 1)
        lines: Array = intercepts[:, None] + slopes[:, None] * far
        return lines
    lowest = targets.min(axis=1)
    share = np.clip(start.floor / np.exp(lowest), 0.01, 0.99)
    first = np.stack(
        [
            np.log(start.scale) - lowest,
            np.full(len(lowest), np.log(-start.exponent)),
            np.log(share / (1 - share)),
        ],
        axis=1,
    )
    parameters, _ = _minimize(logs, targets - lowest[:, None], first)
    values: Array = np.log(_terms(parameters, far)[0].sum(axis=0)) + lowest[:, None]
    return values


def _terms(parameters: Array, logs: Array) -> tuple[Array, Array]:
    """(power law and floor, shape (2, B, n); the floor's derivative by its parameter)."""
    scale, steepness, share = (column[:, None] for column in parameters.T)
    floor = 1 / (1 + np.exp(-share))
    power = np.exp(scale - np.exp(steepness) * logs)
    return np.stack([power, np.broadcast_to(floor, power.shape)]), floor * (1 - floor)


def _minimize(logs: Array, targets: Array, start: Array) -> tuple[Array, Array]:
    """Least squares of log(power law + floor) by Levenberg and Marquardt, for each row at once.

    Parameters: log of the scale, log(−b), and log-odds of the floor as a share of the lowest value.

    Returns:
        Parameters (B, 3) and squared errors (B,).
    """
    theta = np.clip(start, LOW, HIGH)
    damping = np.full(len(theta), 1e-3)
    terms, slope = _terms(theta, logs)
    residuals = np.log(terms.sum(axis=0)) - targets
    errors = (residuals**2).sum(axis=1)
    for _ in range(ITERATIONS):
        total = terms.sum(axis=0)
        by_steepness = -np.exp(theta[:, 1:2]) * logs * terms[0]
        jacobian = np.stack([terms[0], by_steepness, slope + 0 * total], axis=-1) / total[..., None]
        gradient = np.einsum("bni,bn->bi", jacobian, residuals)
        normal = np.einsum("bni,bnj->bij", jacobian, jacobian)
        diagonal = np.einsum("bii->bi", normal) + 1e-12
        damped = normal + (damping[:, None] * diagonal + 1e-14)[..., None] * np.eye(3)
        tried = np.clip(theta - np.linalg.solve(damped, gradient[..., None])[..., 0], LOW, HIGH)
        tried_terms, tried_slope = _terms(tried, logs)
        tried_residuals = np.log(tried_terms.sum(axis=0)) - targets
        tried_errors = (tried_residuals**2).sum(axis=1)
        better = tried_errors < errors
        gain = float(np.max((errors - tried_errors) / (errors + 1e-30), initial=0.0, where=better))
        theta = np.where(better[:, None], tried, theta)
        terms = np.where(better[:, None], tried_terms, terms)
        slope = np.where(better[:, None], tried_slope, slope)
        residuals = np.where(better[:, None], tried_residuals, residuals)
        errors = np.where(better, tried_errors, errors)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
        if gain < 1e-7 and (better | (damping > 1e4)).all():
            break
    return theta, errors
