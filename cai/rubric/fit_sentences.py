"""Fitting a sentence model: tags by multinomial regression, outputs by logistic regression.

Two layers. Tags are learnt from sentences that people have tagged. The outputs are learnt from
replies with labels; the summary of a reply whose sentences were learnt from is computed by a model
that did not see it (folds of the prompts).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cai.constitution.schema import SentenceModel, SentenceOutput, TrainedOn
from cai.errors import JobError
from cai.records import FrozenModel
from cai.rubric.prefilter import Prefilter
from cai.rubric.propositions import NormalizedReply, normalize, normalize_reply
from cai.rubric.sentence_features import features_of, sentences_of, stems_of, word_counts
from cai.rubric.sentence_model import GIVES, REFUSES, SentenceScorer, summary_names, summary_of
from cai.rubric.text_classifier import idf_of, logistic, sparse_rows
from cai.seeds import rng

FOLDS = 5
NO_PATTERNS = Prefilter(())
Array = NDArray[np.float64]


class SentenceFit(FrozenModel):
    """Settings of the fit."""

    sentences: int = 6
    """Sentences in which a feature must occur."""
    strength: float = 16.0
    """Inverse of the L2 penalty of the tags, as scikit-learn's C."""
    output_strength: float = 0.03
    """The same of the outputs, whose numbers are standardised first."""


@dataclass(frozen=True, slots=True)
class TaggedReply:
    prompt: str
    parts: tuple[tuple[str, str], ...]
    """(text, tag) in their order; a text may be several sentences."""

    @property
    def text(self) -> str:
        return " ".join(text for text, _ in self.parts)


@dataclass(frozen=True, slots=True)
class Sentences:
    """A tagged reply as it is learnt from."""

    reply: NormalizedReply
    features: list[set[str]]
    tags: list[str]
    word_counts: Array


@dataclass(frozen=True, slots=True)
class OutputRow:
    """A reply to learn an output from."""

    summary: Array
    holds: bool
    weight: float = 1.0


def prepared(reply: TaggedReply) -> Sentences:
    """Sentences with their features and tags."""
    pairs = [
        (sentence, tag) for text, tag in reply.parts for sentence in sentences_of(normalize(text))
    ]
    sentences = [sentence for sentence, _ in pairs]
    features = features_of(sentences, stems_of(normalize(reply.prompt)))
    normalized = normalize_reply(reply.prompt, reply.text, NO_PATTERNS)
    return Sentences(normalized, features, [tag for _, tag in pairs], word_counts(sentences))


def fit_tags(
    replies: Sequence[Sentences], config: SentenceFit, trained_on: Sequence[TrainedOn]
) -> SentenceModel:
    """A model of the tags, without outputs.

    Raises:
        JobError: there are too few sentences, or a tag that summaries need is missing.
    """
    rows = [row for reply in replies for row in reply.features]
    tags = [tag for reply in replies for tag in reply.tags]
    names = sorted(set(tags))
    if missing := {REFUSES, GIVES} - set(names):
        raise JobError(f"sentences: none is tagged {' or '.join(sorted(missing))}")
    counts = Counter(feature for row in rows for feature in row)
    frequent = sorted(feature for feature, n in counts.items() if n >= config.sentences)
    if not frequent:
        raise JobError(f"sentences: no feature is in {config.sentences} of them: tag more replies")
    idf = {feature: idf_of(counts[feature], len(rows)) for feature in frequent}
    columns = np.array([names.index(tag) for tag in tags])
    weights_VK, bias_K = _multinomial(sparse_rows(rows, idf), columns, len(names), config.strength)
    return SentenceModel(
        trained_on=tuple(trained_on),
        tags=tuple(names),
        bias=_rounded(bias_K),
        weights={
            feature: _rounded(row_K) for feature, row_K in zip(frequent, weights_VK, strict=True)
        },
        idf=idf,
        outputs={},
    )


def out_of_fold_summaries(
    replies: Sequence[TaggedReply], rows: Sequence[Sentences], config: SentenceFit
) -> list[Array]:
    """The summary of each reply, by a model that saw no reply to its prompt."""
    prompts = sorted({reply.prompt for reply in replies})
    fold_of = {prompt: rng(0, "fold", prompt).randrange(FOLDS) for prompt in prompts}
    summaries: list[Array] = [np.zeros(0)] * len(replies)
    for fold in range(FOLDS):
        inside = [
            row for reply, row in zip(replies, rows, strict=True) if fold_of[reply.prompt] != fold
        ]
        model = fit_tags(inside, config, ())
        scorer = SentenceScorer(model)
        for index, (reply, row) in enumerate(zip(replies, rows, strict=True)):
            if fold_of[reply.prompt] == fold:
                p_SK = scorer.tag_probabilities(row.features)
                summaries[index] = summary_of(row.reply, p_SK, row.word_counts, model.tags)
    return summaries


def fit_output(rows: Sequence[OutputRow], tags: Sequence[str], strength: float) -> SentenceOutput:
    """The logistic model of one output. Numbers are standardised, and the scale put into weights.

    Raises:
        JobError: all labels are equal.
    """
    if len({row.holds for row in rows}) < 2:
        raise JobError("sentences: an output needs replies of which it holds, and others")
    x = np.stack([row.summary for row in rows])
    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    y = np.array([1.0 if row.holds else -1.0 for row in rows])
    row_weights = np.array([row.weight for row in rows])
    weights, bias = logistic((x - mean) / scale, y, row_weights, strength)
    weights = weights / scale
    names = summary_names(tags)
    return SentenceOutput(
        bias=round(bias - float(weights @ mean), 4),
        weights={name: round(float(w), 4) for name, w in zip(names, weights, strict=True)},
    )


def output_log_odds(output: SentenceOutput, summaries: Sequence[Array], tags: Sequence[str]) -> Any:
    """Of each summary, without the text model."""
    weights = np.array([output.weights[name] for name in summary_names(tags)])
    return np.stack(summaries) @ weights + output.bias


def with_outputs(model: SentenceModel, outputs: Mapping[str, SentenceOutput]) -> SentenceModel:
    return model.model_copy(update={"outputs": dict(outputs)})


def _rounded(values: Array) -> tuple[float, ...]:
    return tuple(round(float(value), 2) for value in values)


def _multinomial(x: Any, columns: NDArray[np.int64], tags: int, strength: float) -> Any:
    """(weights (V, K), bias (K,)) of the penalised multinomial regression, by L-BFGS.

    minimise  sum of -log P(tag)  +  |weights|^2 / (2 strength)
    """
    from scipy.optimize import minimize

    rows, width = x.shape
    one_hot = np.zeros((rows, tags))
    one_hot[np.arange(rows), columns] = 1

    def loss_and_gradient(v: Array) -> tuple[float, Array]:
        w, b = v[: width * tags].reshape(width, tags), v[width * tags :]
        scores = x @ w + b
        scores -= scores.max(1, keepdims=True)
        log_sum = np.log(np.exp(scores).sum(1))
        p = np.exp(scores - log_sum[:, None])
        value = float(
            (log_sum - scores[np.arange(rows), columns]).sum() + (w * w).sum() / (2 * strength)
        )
        residual = p - one_hot
        gradient = x.T @ residual + w / strength
        return value, np.concatenate([gradient.ravel(), residual.sum(0)])

    start = np.zeros(width * tags + tags)
    solution = minimize(
        loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 400}
    ).x
    return solution[: width * tags].reshape(width, tags), solution[width * tags :]
