"""Weights of a rubric's score from ranked replies (arXiv:2411.01111, section 4.2).

    minimise   mean over pairs of max(0, margin - (R(better) - R(worse)))  +  penalty * sum |v|
    where      R(reply) = r(reply) + sum v_k phi_k(reply) / sigma_k

A pair is two replies to one prompt. phi are the probabilities of classes and propositions, sigma
their standard deviations over the training replies, r the preference model's reward divided by its
standard deviation (or 0). Both terms are convex and piecewise linear, so the minimum is a linear
program, which HiGHS solves exactly. Pairs that differ in the same way are one row with a count,
which makes programs of many pairs small.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, hstack, identity

from cai.data.split import split_by_group
from cai.errors import JobError
from cai.records import FrozenModel
from cai.seeds import rng

Array = NDArray[np.float64]


class FitConfig(FrozenModel):
    """Settings of the fit."""

    margin: float = Field(1.0, gt=0)
    """Difference of rewards from which on a pair costs nothing."""
    penalty: float = Field(1e-3, ge=0)
    """On the absolute weights of standardised features; keeps at 0 those that no pair needs."""
    held_out: float = Field(0.2, ge=0, lt=1)
    """Share of the prompts that are not fitted on."""
    keep_signs: bool = True
    """A weight may shrink to 0 but not change the sign that the rubric gives it."""


@dataclass(frozen=True)
class Ranked:
    """One reply among several to one prompt."""

    prompt: str
    """Its id: a prompt's replies are all on one side of the split."""
    rank: float
    """Lower is better; replies of equal rank are not compared."""
    features: Mapping[str, float]
    """Class, proposition or derived id -> probability."""
    reward: float | None = None
    """The preference model's."""


@dataclass(frozen=True)
class FittedWeights:
    weights: dict[str, float]
    scale: float
    """Divisor of the preference model's rewards; 1 without any."""
    pairs: int
    loss: float
    """Mean hinge over the training pairs, without the penalty."""


def split_prompts(
    rows: Sequence[Ranked], share: float, seed: int
) -> tuple[list[Ranked], list[Ranked]]:
    """(train, held out) by prompt: the side follows from the prompt's id and the seed."""
    return split_by_group(
        rows, share, lambda row: row.prompt, lambda prompt: rng(seed, "fit", prompt).random()
    )


def ordered_pairs(rows: Sequence[Ranked]) -> list[tuple[int, int]]:
    """(better, worse) indices of all pairs of one prompt whose ranks differ."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[row.prompt].append(index)
    return [
        (i, j)
        for group in groups.values()
        for i in group
        for j in group
        if rows[i].rank < rows[j].rank
    ]


def fit_weights(
    rows: Sequence[Ranked], start: Mapping[str, float], config: FitConfig
) -> FittedWeights:
    """Weights for the features named in `start`.

    Args:
        rows: training replies.
        start: the rubric's weights, whose signs are kept if `config` says so (0: either sign).

    Raises:
        JobError: no two replies of one prompt differ in rank, or only some have a reward.
    """
    pairs = ordered_pairs(rows)
    if not pairs:
        raise JobError(
            "fit: no two replies to one prompt differ in rank: there is nothing to learn from"
        )
    names = list(start)
    phi_RF = np.array([[row.features[name] for name in names] for row in rows], dtype=np.float64)
    phi_RF = phi_RF.reshape(len(rows), len(names))
    sigma_F = phi_RF.std(axis=0)
    sigma_F[sigma_F < 1e-12] = 1.0
    reward_R, scale = _scaled_rewards(rows)
    better, worse = np.array(pairs).T
    gaps_PF = (phi_RF[better] - phi_RF[worse]) / sigma_F
    needed_P = config.margin - (reward_R[better] - reward_R[worse])
    signs = [np.sign(start[name]) if config.keep_signs else 0.0 for name in names]
    v_F, loss = _solve(gaps_PF, needed_P, signs, config.penalty)
    weights = {name: float(w) for name, w in zip(names, v_F / sigma_F, strict=True)}
    return FittedWeights(weights, scale, len(pairs), loss)


def _scaled_rewards(rows: Sequence[Ranked]) -> tuple[Array, float]:
    """The rewards divided by their standard deviation, and that; zeros and 1 without rewards."""
    rewards = [row.reward for row in rows if row.reward is not None]
    missing = len(rows) - len(rewards)
    if missing:
        if rewards:
            raise JobError(
                f"fit: {missing} of {len(rows)} replies have no reward: give it to all, or to none"
            )
        return np.zeros(len(rows)), 1.0
    sigma = float(np.std(rewards))
    scale = sigma if sigma > 1e-12 else 1.0
    return np.array(rewards) / scale, scale


def _solve(
    gaps_PF: Array, needed_P: Array, signs: Sequence[float], penalty: float
) -> tuple[Array, float]:
    """Minimise mean_P max(0, needed - gaps . v) + penalty * |v|_1 as a linear program.

    Its variables are v+, v- (v = v+ - v-) and one slack per distinct pair.
    """
    rows, counts = np.unique(
        np.round(np.column_stack([gaps_PF, needed_P]), 12), axis=0, return_counts=True
    )
    gaps = rows[:, :-1]
    needed = rows[:, -1]
    share = counts / counts.sum()
    width = gaps.shape[1]
    cost = np.concatenate([np.full(2 * width, penalty), share])
    slack = -identity(len(needed), format="csr")
    left = hstack([csr_matrix(-gaps), csr_matrix(gaps), slack], format="csr")
    positive_bounds = [(0.0, 0.0 if sign < 0 else None) for sign in signs]
    negative_bounds = [(0.0, 0.0 if sign > 0 else None) for sign in signs]
    slack_bounds = [(0.0, None)] * len(needed)
    bounds = [*positive_bounds, *negative_bounds, *slack_bounds]
    result: Any = linprog(cost, A_ub=left, b_ub=-needed, bounds=bounds, method="highs")
    if result.status != 0:
        raise JobError(f"fit: the solver stopped without a solution: {result.message}")
    v_F = result.x[:width] - result.x[width : 2 * width]
    return v_F, float(share @ np.maximum(0.0, needed - gaps @ v_F))


def score(row: Ranked, weights: Mapping[str, float], scale: float, parts: str) -> float:
    """The reward of a reply; `parts` is rm, rubric, or rm+rubric."""
    by_rubric = sum(weight * row.features[name] for name, weight in weights.items())
    by_model = (row.reward or 0.0) / scale
    return {"rm": by_model, "rubric": by_rubric, "rm+rubric": by_model + by_rubric}[parts]


def pair_errors(
    rows: Sequence[Ranked], weights: Mapping[str, float], scale: float, parts: str
) -> list[tuple[str, float]]:
    """(prompt, error) of every ordered pair.

    The error is 1 for a pair in the wrong order, one half for a tie, 0 for the right order.
    """
    scores = [score(row, weights, scale, parts) for row in rows]
    return [(rows[i].prompt, _pair_error(scores[i], scores[j])) for i, j in ordered_pairs(rows)]


def _pair_error(better: float, worse: float) -> float:
    if better == worse:
        return 0.5
    return 0.0 if better > worse else 1.0
