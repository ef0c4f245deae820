"""Reliability of judgements: Cohen's kappa and Krippendorff's alpha, with intervals over items.

Pure functions. Both statistics are functions of a table of categories by categories that is a sum
over items, so a bootstrap resample of items is a weighted sum of the items' tables.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import permutations

import numpy as np

from cai.records import Score
from cai.statistics.estimates import Array, Indices, bootstrap_interval, resample

DRAWS = 2000
MIN_DEFINED = 0.9
"""Share of resamples in which a statistic must be defined to have an interval."""

Statistic = Callable[[Array], Array]
"""From tables, shape (…, categories, categories), to a value each; NaN where it is undefined."""


# ---- tables of items ----


def confusion_tables(
    items: Sequence[Sequence[tuple[Hashable, Hashable]]], categories: Sequence[Hashable]
) -> Array:
    """Per item, how often the first rater gave the row's category and the second the column's.

    Args:
        items: per item, the (first, second) judgements: one, or several where several raters are
            compared with one.
    """
    numbers = {category: number for number, category in enumerate(categories)}
    tables = np.zeros((len(items), len(numbers), len(numbers)))
    for table, judgements in zip(tables, items, strict=True):
        for first, second in judgements:
            table[numbers[first], numbers[second]] += 1
    return tables


def coincidence_tables(
    items: Sequence[Sequence[Hashable]], categories: Sequence[Hashable]
) -> Array:
    """Per item, the coincidences of its values: ordered pairs, weighted 1 / (values - 1).

    An item of fewer than two values has none (Krippendorff 2011, "Computing Krippendorff's
    Alpha-Reliability", section C).
    """
    numbers = {category: number for number, category in enumerate(categories)}
    tables = np.zeros((len(items), len(numbers), len(numbers)))
    for table, values in zip(tables, items, strict=True):
        for first, second in permutations(values, 2):
            table[numbers[first], numbers[second]] += 1 / (len(values) - 1)
    return tables


# ---- statistics of tables ----


def cohen_kappa(tables: Array) -> Array:
    """Cohen's kappa (1960) of confusion tables.

        kappa = (p_o - p_e) / (1 - p_e)

    p_o is the share on the diagonal, p_e the share expected there from the margins. NaN where both
    raters gave one and the same category throughout.
    """
    n = tables.sum((-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = np.trace(tables, axis1=-2, axis2=-1) / n
        expected = (tables.sum(-1) * tables.sum(-2)).sum(-1) / n**2
        kappa: Array = np.where(
            1 - expected > 1e-12, (observed - expected) / (1 - expected), np.nan
        )
    return kappa


def nominal_alpha(tables: Array) -> Array:
    """Krippendorff's alpha of coincidence tables, where categories are the same or not."""
    return _alpha(tables, np.broadcast_to(1 - np.eye(tables.shape[-1]), tables.shape))


def ordinal_alpha(tables: Array) -> Array:
    """Krippendorff's alpha of coincidence tables, where categories are in order.

    The distance of c and k is the number of values between them, half of those at the ends:

        delta(c, k) = n_c / 2 + n_{c+1} + … + n_{k-1} + n_k / 2
    """
    margins = tables.sum(-1)
    middles = margins.cumsum(-1) - margins / 2
    return _alpha(tables, (middles[..., :, None] - middles[..., None, :]) ** 2)


def _alpha(tables: Array, squared_distances: Array) -> Array:
    """1 - D_o / D_e; NaN where all values are the same, or there are none."""
    margins = tables.sum(-1)
    n = margins.sum(-1)
    observed = (tables * squared_distances).sum((-2, -1))
    expected = (margins[..., :, None] * margins[..., None, :] * squared_distances).sum((-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha: Array = np.where(expected > 0, 1 - (n - 1) * observed / expected, np.nan)
    return alpha


# ---- with an interval ----


def agreement(
    metric: str, subject: str, tables: Array, statistic: Statistic, *, seed: int = 0
) -> Score:
    """A statistic of the items' tables, with a bootstrap interval over items.

    Args:
        tables: shape (items, categories, categories); empty ones count as `unscored`.

    Returns:
        `mean` is the statistic, None where it is undefined. Standard error and interval are None
        for fewer than two items, or where too many resamples leave the statistic undefined.
    """
    known = tables[tables.any((1, 2))]
    value = float(statistic(known.sum(0))) if len(known) else float("nan")
    stderr = low = high = None
    if not np.isnan(value) and len(known) > 1:

        def of_resamples(indices: Indices) -> Array:
            weights = np.zeros(indices.shape)
            np.add.at(weights, (np.arange(len(indices))[:, None], indices), 1)
            return statistic(np.tensordot(weights, known, axes=1))

        values = resample(of_resamples, len(known), seed, DRAWS, metric, subject)
        defined = values[~np.isnan(values)]
        if len(defined) >= MIN_DEFINED * DRAWS:
            stderr, low, high = bootstrap_interval(defined)
    return Score(
        metric=metric,
        subject=subject,
        mean=None if np.isnan(value) else value,
        stderr=stderr,
        ci_low=low,
        ci_high=high,
        n=len(known),
        unscored=len(tables) - len(known),
    )
