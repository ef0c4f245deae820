"""The text classifier: a proposition decided by the words and word pairs (n-grams) of a reply.

    P(holds) = sigma(bias + sum of idf · weight / sqrt(sum of idf²))    over the known n-grams

The inverse document frequency (idf) is large for n-grams of few replies, and 1 in models that have
none. Weights are fitted by logistic regression with an L2 penalty on labelled replies. The model is
a JSON file that names what it was fitted on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cai.constitution.schema import TextModel, TrainedOn
from cai.errors import JobError
from cai.probability import sigmoid
from cai.records import FrozenModel
from cai.rubric.propositions import NormalizedReply
from cai.rubric.text_models import WORD

_MAX_EVIDENCE = 5
"""N-grams to show as evidence."""
Array = NDArray[np.float64]


class TextFit(FrozenModel):
    """Settings of the fit."""

    runs: int = Field(3000, ge=10)
    """N-grams that the model keeps: those of the largest weights in a first fit."""
    replies: int = Field(20, ge=1)
    """Replies in which an n-gram must occur: rarer ones say more about the data set."""
    strength: float = Field(10.0, gt=0)
    """The inverse of the L2 penalty, as scikit-learn's C."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A reply with a human label of the proposition."""

    prompt: str
    """Its id: replies to one prompt are all on one side of a split."""
    ngrams: frozenset[str]
    """N-grams of the reply."""
    holds: bool
    weight: float = 1.0
    group: str = ""
    """The model, or the set, that the reply is from; empty: it is never held out by itself."""


def ngrams_of(text: str) -> frozenset[str]:
    """The n-grams of a normalised text: its words, and pairs of neighbours."""
    words = WORD.findall(text)
    return frozenset([*words, *map(" ".join, pairwise(words))])


@dataclass(frozen=True, slots=True)
class ClassifierTest:
    """A proposition decided by a fitted model.

    With `above`, the proposition holds where the model's probability is higher than that.
    """

    model: TextModel
    index: int
    """Of the model among those of the rubric."""
    above: float | None

    def __call__(self, reply: NormalizedReply) -> float:
        p = reply.fitted[self.index]
        return p if self.above is None else float(p > self.above)

    def evidence(self, reply: NormalizedReply) -> str | None:
        if self(reply) < 0.5:
            return None
        weights = self.model.weights
        positive = [ngram for ngram in ngrams_of(reply.unquoted) if weights.get(ngram, 0) > 0]
        top = sorted(positive, key=lambda ngram: (-weights[ngram], ngram))[:_MAX_EVIDENCE]
        return f"{reply.fitted[self.index]:.2f} by its words: {', '.join(top)}"


def probability(model: TextModel, ngrams: frozenset[str]) -> float:
    """P(the proposition holds) of a reply with these n-grams."""
    return scorer(model)(ngrams)


def scorer(model: TextModel) -> Callable[[frozenset[str]], float]:
    """`probability` of one model, for many replies."""
    score_of = log_odds(model)
    return lambda ngrams: sigmoid(score_of(ngrams))


def log_odds(model: TextModel) -> Callable[[frozenset[str]], float]:
    """The log-odds of one model, for many replies."""
    idf = {ngram: model.idf.get(ngram, 1.0) for ngram in model.weights}
    products = {ngram: weight * idf[ngram] for ngram, weight in model.weights.items()}
    squares = {ngram: value**2 for ngram, value in idf.items()}
    vocabulary = frozenset(products)

    def score(ngrams: frozenset[str]) -> float:
        known = ngrams & vocabulary
        if not known:
            return model.bias
        length = math.sqrt(math.fsum(map(squares.__getitem__, known)))
        return model.bias + math.fsum(map(products.__getitem__, known)) / length

    return score


def fit_text(
    rows: Sequence[Labelled], config: TextFit, trained_on: Sequence[TrainedOn]
) -> TextModel:
    """The model of labelled replies.

    Raises:
        JobError: all labels are equal, or no n-gram occurs in enough replies.
    """
    if len({row.holds for row in rows}) < 2:
        raise JobError(
            "fit-grader: needs replies of which the proposition holds, "
            "and others of which it does not"
        )
    y = np.array([1.0 if row.holds else -1.0 for row in rows])
    row_weights = np.array([row.weight for row in rows])
    replies = [row.ngrams for row in rows]
    reply_counts = Counter(ngram for reply in replies for ngram in reply)
    frequent = sorted(ngram for ngram, n in reply_counts.items() if n >= config.replies)
    if not frequent:
        raise JobError(
            f"fit-grader: no word or word pair is in {config.replies} replies: "
            "give more, or lower --replies"
        )
    idf = {ngram: idf_of(reply_counts[ngram], len(rows)) for ngram in frequent}
    weights, bias = logistic(sparse_rows(replies, idf), y, row_weights, config.strength)
    if len(idf) > config.runs:
        largest = np.argsort(-np.abs(weights), kind="stable")[: config.runs]
        idf = {ngram: idf[ngram] for ngram in sorted(frequent[index] for index in largest)}
        weights, bias = logistic(sparse_rows(replies, idf), y, row_weights, config.strength)
    rounded = {ngram: round(float(w), 3) for ngram, w in zip(idf, weights, strict=True)}
    return TextModel(
        trained_on=tuple(trained_on),
        bias=round(bias, 3),
        weights=rounded,
        idf=idf,
    )


def idf_of(count: int, replies: int) -> float:
    """Of an n-gram that `count` of the replies have, as scikit-learn smooths it."""
    return round(math.log((1 + replies) / (1 + count)) + 1, 3)


def sparse_rows(replies: Sequence[Set[str]], idf: Mapping[str, float]) -> Any:
    """Sparse (replies, n-grams): idf where the reply has the n-gram, each row of length 1."""
    from scipy.sparse import csr_matrix  # slow to import, and grading does not need it

    column_of = {ngram: column for column, ngram in enumerate(idf)}
    value_of = np.array(list(idf.values()))
    rows = [
        np.array(sorted(column_of[ngram] for ngram in reply & column_of.keys()), dtype=np.int32)
        for reply in replies
    ]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.concatenate(rows)
    values = [value_of[row] / max(1e-9, np.linalg.norm(value_of[row])) for row in rows]
    return csr_matrix((np.concatenate(values), columns, starts), shape=(len(replies), len(idf)))


def logistic(x: Any, y: Array, row_weights: Array, strength: float) -> tuple[Array, float]:
    """Weights and bias of the penalised logistic regression, by L-BFGS; a convex problem.

    minimise  sum row_weight * log(1 + exp(-y (x w + b)))  +  |w|^2 / (2 strength)
    """
    from scipy.optimize import minimize

    def loss_and_gradient(v: Array) -> tuple[float, Array]:
        w = v[:-1]
        margin = y * (x @ w + v[-1])
        slope = -y * row_weights / (1 + np.exp(np.clip(margin, -500, 500)))
        value = float(row_weights @ np.logaddexp(0, -margin) + w @ w / (2 * strength))
        return value, np.append(x.T @ slope + w / strength, slope.sum())

    start = np.zeros(x.shape[1] + 1)
    v = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
    return v[:-1], float(v[-1])
