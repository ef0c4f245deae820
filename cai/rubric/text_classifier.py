"""A proposition decided by the words of a reply: a linear model over runs of one and two words.

    P(holds) = sigma(bias + sum of the weights of the runs that the reply has / sqrt(how many of them it has))

Weights are fitted by logistic regression with a ridge, on labelled replies, and ship as JSON that names what they were fitted on.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cai.constitution.schema import TextModel, TrainedOn
from cai.data.split import split_by_group
from cai.errors import JobError
from cai.probability import sigmoid
from cai.records import FrozenModel
from cai.rubric.propositions import NormalizedReply
from cai.seeds import rng

_WORD = re.compile(r"[\w']+")
_SHOWN = 5
Array = NDArray[np.float64]


class TextFit(FrozenModel):
    """How such a model is fitted."""

    runs: int = Field(3000, ge=10)
    """Runs of words that it may know: those of the largest weights in a first fit."""
    replies: int = Field(20, ge=1)
    """A run counts from so many replies on: rarer ones say more about the data than about the proposition."""
    strength: float = Field(10.0, gt=0)
    """One over the ridge's weight, as scikit-learn's C."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A reply of which people said whether the proposition holds."""

    prompt: str
    """Its id: replies to one prompt are all on one side of a split."""
    said: frozenset[str]
    holds: bool
    weight: float = 1.0


def words_of(voice: str) -> frozenset[str]:
    """Runs of a normalised text: its words, and pairs of neighbours."""
    words = _WORD.findall(voice)
    return frozenset([*words, *map(" ".join, pairwise(words))])


class CachedClassifier:
    """A model that remembers the last text: several propositions of a rubric ask it about one reply."""

    def __init__(self, model: TextModel) -> None:
        self.model = model
        self._last = ("", probability(model, frozenset()))

    def __call__(self, voice: str) -> float:
        known, p = self._last
        if voice != known:
            p = probability(self.model, words_of(voice))
            self._last = (voice, p)
        return p


@dataclass(frozen=True, slots=True)
class ClassifierTest:
    """Decided by a fitted model; with `above`, it holds where the model's probability is higher than that."""

    score: CachedClassifier
    above: float | None

    def __call__(self, reply: NormalizedReply) -> float:
        p = self.score(reply.unquoted)
        return p if self.above is None else float(p > self.above)

    def evidence(self, reply: NormalizedReply) -> str | None:
        p, said, weights = self.score(reply.unquoted), words_of(reply.unquoted), self.score.model.weights
        if self(reply) < 0.5:
            return None
        top = sorted((run for run in said if weights.get(run, 0) > 0), key=lambda run: (-weights[run], run))[:_SHOWN]
        return f"{p:.2f} by its words: {', '.join(top)}"


def probability(model: TextModel, said: frozenset[str]) -> float:
    """P(the proposition holds) of a reply with these runs."""
    weights = model.weights
    known = [weights[run] for run in said if run in weights]
    z = model.bias + math.fsum(known) / math.sqrt(max(1, len(known)))
    return sigmoid(z)


def split(rows: Sequence[Labelled], share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """(to learn from, held out): `share` of the prompts, drawn by the seed."""
    return split_by_group(rows, share, lambda row: row.prompt, lambda prompt: rng(seed, "fit-text", prompt).random())


def fit_text(rows: Sequence[Labelled], config: TextFit, trained_on: Sequence[TrainedOn]) -> TextModel:
    """The model of labelled replies.

    Raises:
        JobError: labels of one sort only, or no run in enough replies.
    """
    if len({row.holds for row in rows}) < 2:
        raise JobError("fit-text: needs replies of which the proposition holds, and others of which it does not")
    y, count = np.array([1.0 if row.holds else -1.0 for row in rows]), np.array([row.weight for row in rows])
    replies = [row.said for row in rows]
    seen = Counter(run for said in replies for run in said)
    names = sorted(run for run, n in seen.items() if n >= config.replies)
    if not names:
        raise JobError(f"fit-text: no run of words is in {config.replies} replies: give more, or lower --replies")
    found, _ = _logistic(_matrix(replies, names), y, count, config.strength)
    kept = sorted(names[at] for at in np.argsort(-np.abs(found), kind="stable")[: config.runs])
    found, bias = _logistic(_matrix(replies, kept), y, count, config.strength)
    rounded = {run: round(float(w), 3) for run, w in zip(kept, found, strict=True)}
    return TextModel(trained_on=tuple(trained_on), bias=round(bias, 3), weights={run: w for run, w in rounded.items() if w})


def _matrix(replies: Sequence[frozenset[str]], names: Sequence[str]) -> Any:
    """(replies, runs), sparse: 1 / sqrt(number of known runs) where the reply has the run."""
    from scipy.sparse import csr_matrix  # who only grades does not wait for scipy

    index = {run: at for at, run in enumerate(names)}
    found = [sorted(index[run] for run in said if run in index) for said in replies]
    starts = np.concatenate([[0], np.cumsum([len(own) for own in found])])
    values = np.concatenate([np.full(len(own), 1 / math.sqrt(max(1, len(own)))) for own in found])
    columns = np.array([at for own in found for at in own], dtype=np.int32)
    return csr_matrix((values, columns, starts), shape=(len(replies), len(names)))


def _logistic(x: Any, y: Array, count: Array, strength: float) -> tuple[Array, float]:
    """Weights and bias of least  sum count * log(1 + exp(-y (x w + b)))  +  |w|^2 / (2 strength), by L-BFGS; convex."""
    from scipy.optimize import minimize

    def loss(v: Array) -> tuple[float, Array]:
        w, margin = v[:-1], y * (x @ v[:-1] + v[-1])
        slope = -y * count / (1 + np.exp(np.clip(margin, -500, 500)))
        value = float(count @ np.logaddexp(0, -margin) + w @ w / (2 * strength))
        return value, np.append(x.T @ slope + w / strength, slope.sum())

    v = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
    return v[:-1], float(v[-1])
