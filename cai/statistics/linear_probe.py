"""A linear probe: a direction in a model's hidden states along which better replies lie further.

Logistic regression on the differences of pairs (Bradley–Terry with linear strengths), so swapping
the two replies of a pair changes the sign of the log-odds and nothing else. Pure functions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from cai.statistics.estimates import Array


class LinearProbe(NamedTuple):
    """Log-odds that one reply beats another: the difference of their scores."""

    direction_E: Array

    def scores(self, states: Array) -> Array:
        """Of states (..., E); only differences between the replies to one prompt have a meaning."""
        return states @ self.direction_E


def fit(better_NE: Array, worse_NE: Array, covariate_N: Array, penalty: float) -> LinearProbe:
    """The probe that tells the better replies of N pairs from the worse ones.

        minimise over w, v:  mean_i log(1 + exp(-(w·x_i + v c_i))) + penalty/2 |w|²

    x_i is the difference of the states, each dimension in units of its spread over all states, and
    the sum of them in units of √E. The covariate c_i takes up what is not to be learnt, such as the
    difference in length; it is left out of the probe.

    Args:
        covariate_N: of the better reply minus the worse one.
        penalty: 0.01 and more; the weight of the covariate is not penalised.
    """
    scale_E = np.concatenate([better_NE, worse_NE]).std(0)
    scale_E = np.where(scale_E > 0, scale_E, np.inf) * np.sqrt(better_NE.shape[1])
    x_NE = (better_NE - worse_NE) / scale_E
    inputs_NF = np.concatenate([x_NE, covariate_N[:, None]], 1)
    penalty_F = np.full(inputs_NF.shape[1], penalty)
    penalty_F[-1] = 1e-6

    def loss(weights_F: Array) -> tuple[float, Array]:
        margins_N = inputs_NF @ weights_F
        value = np.logaddexp(0, -margins_N).mean() + penalty_F @ weights_F**2 / 2
        doubt_N = 1 / (1 + np.exp(np.clip(margins_N, -500, 500)))
        return value, penalty_F * weights_F - inputs_NF.T @ doubt_N / len(margins_N)

    optimum = minimize(loss, np.zeros(inputs_NF.shape[1]), jac=True, method="L-BFGS-B")
    return LinearProbe(optimum.x[:-1] / scale_E)


def log_loss(margins: Array) -> float:
    """Mean -log P of the better replies, from their log-odds; ln 2 is chance."""
    return float(np.logaddexp(0, -margins).mean())
