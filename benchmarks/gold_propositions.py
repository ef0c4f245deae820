"""Propositions of rule-based rewards, decided by words and the shipped patterns together.

The log-odds are the mean of two models: a text model of the n-grams, and a logistic model of every
proposition that `refusal_style` decides without a model. Five folds by prompt; the penalty of the
second model and the threshold are chosen in four of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cai.rubric import CompiledRubric
from cai.rubric.held_out_groups import folds_of
from cai.rubric.propositions import NormalizedReply
from cai.rubric.text_classifier import Labelled, TextFit, fit_text, log_odds, logistic

TEXT = TextFit(replies=3, runs=10_000, strength=64.0)
STRENGTHS = (0.003, 0.01, 0.03, 0.1)
THRESHOLDS = (-1.5, -1.0, -0.5, 0.0, 0.5)
"""Of log-odds."""
Array = NDArray[np.float64]


def pattern_values(compiled: CompiledRubric, replies: Sequence[NormalizedReply]) -> Array:
    """(replies, propositions), in standard units."""
    values = np.array([[test(reply) for _, test in compiled.tests] for reply in replies])
    spread = values.std(0)
    kept: Array = (values - values.mean(0))[:, spread > 0] / spread[spread > 0]
    return kept


def verdicts(rows: Sequence[Labelled], values: Array) -> NDArray[np.bool_]:
    """Of each row, by models that saw no reply to its prompt."""
    index_of = {id(row): index for index, row in enumerate(rows)}
    decided = np.zeros(len(rows), bool)
    for fold in folds_of(rows):
        train = [index_of[id(row)] for row in fold.train]
        test = [index_of[id(row)] for row in fold.test]
        strength, threshold = _choice(rows, values, train)
        decided[test] = _log_odds(rows, values, train, test, strength) > threshold
    return decided


def f1(people: NDArray[np.bool_], verdicts: NDArray[np.bool_]) -> float:
    return float(2 * (people & verdicts).sum() / max(1, people.sum() + verdicts.sum()))


def _choice(rows: Sequence[Labelled], values: Array, train: Sequence[int]) -> tuple[float, float]:
    """(strength, threshold) of the best F1 in folds of the training rows."""
    inner = folds_of([rows[index] for index in train])
    index_of = {id(rows[index]): index for index in train}
    people, scores = [], {strength: [] for strength in STRENGTHS}
    for fold in inner:
        inside = [index_of[id(row)] for row in fold.train]
        outside = [index_of[id(row)] for row in fold.test]
        people += [row.holds for row in fold.test]
        for strength in STRENGTHS:
            scores[strength] += _log_odds(rows, values, inside, outside, strength).tolist()
    truth = np.array(people)
    return max(
        ((strength, threshold) for strength in STRENGTHS for threshold in THRESHOLDS),
        key=lambda pair: f1(truth, np.array(scores[pair[0]]) > pair[1]),
    )


def _log_odds(
    rows: Sequence[Labelled],
    values: Array,
    train: Sequence[int],
    test: Sequence[int],
    strength: float,
) -> Array:
    holds = np.array([rows[index].holds for index in train])
    rarity = np.where(holds, np.sqrt((~holds).sum() / max(1, holds.sum())), 1.0)
    signs = np.where(holds, 1.0, -1.0)
    weights, bias = logistic(values[train], signs, rarity, strength)
    score = log_odds(fit_text([rows[index] for index in train], TEXT, ()))
    by_words = np.array([score(rows[index].ngrams) for index in test])
    mixed: Array = (values[test] @ weights + bias + by_words) / 2
    return mixed
