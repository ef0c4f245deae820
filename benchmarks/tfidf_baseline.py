"""The baseline of refusal graders: TF-IDF of words and characters, and logistic regression.

It is scikit-learn's, with vocabulary and idf of the training rows alone. Counts are taken once for
all rows, which changes nothing but the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import hstack

from cai.rubric.held_out_groups import STRENGTHS, THRESHOLDS, macro_f1

Indices = NDArray[np.int64]
WORD = r"[\w']+"


class Texts:
    """Counts of words, word pairs and characters of texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        words = CountVectorizer(token_pattern=WORD, ngram_range=(1, 2), min_df=2)
        characters = CountVectorizer(analyzer="char_wb", ngram_range=(3, 5), min_df=5)
        self.counts = [
            words.fit_transform(texts).tocsc(),
            characters.fit_transform([text[:3000] for text in texts]).tocsc(),
        ]

    def features(self, train: Indices) -> Any:
        """TF-IDF of all texts, as fitted on `train`."""
        from sklearn.feature_extraction.text import TfidfTransformer

        blocks = []
        for counts in self.counts:
            rows = counts.tocsr()
            frequent = np.flatnonzero(rows[train].getnnz(axis=0) >= 2)
            columns = rows[:, frequent]
            weighting = TfidfTransformer(sublinear_tf=True).fit(columns[train])
            blocks.append(weighting.transform(columns))
        return hstack(blocks).tocsr()


@dataclass(frozen=True, slots=True)
class Task:
    """Rows to learn from, by index into the texts."""

    texts: Texts
    holds: NDArray[np.bool_]
    weights: NDArray[np.float64]
    group: NDArray[np.str_]
    """Empty: never held out by itself."""


def verdicts(task: Task, train: Indices, test: Indices) -> list[bool]:
    """On `test`, by a model of `train`, its settings chosen by leaving out groups of `train`."""
    scores: dict[tuple[float, float], list[float]] = {}
    for name in sorted(set(task.group[train]) - {""}):
        inner, held_out = train[task.group[train] != name], train[task.group[train] == name]
        if len(set(task.holds[inner])) < 2 or len(set(task.holds[held_out])) < 2:
            continue
        features = task.texts.features(inner)
        truth = task.holds[held_out].tolist()
        for strength in STRENGTHS:
            values = _probabilities(task, features, inner, held_out, strength)
            for above in THRESHOLDS:
                score = macro_f1(truth, (values > above).tolist())
                scores.setdefault((strength, above), []).append(score)
    strength, above = max(
        scores, key=lambda key: (round(fmean(scores[key]), 6), -abs(key[1] - 0.5), -key[0])
    )
    features = task.texts.features(train)
    return [bool(p > above) for p in _probabilities(task, features, train, test, strength)]


def _probabilities(
    task: Task, features: Any, train: Indices, test: Indices, strength: float
) -> NDArray[np.float64]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, solver="liblinear", intercept_scaling=3)
    model.fit(features[train], task.holds[train], sample_weight=task.weights[train])
    probabilities: NDArray[np.float64] = model.predict_proba(features[test])[:, 1]
    return probabilities
