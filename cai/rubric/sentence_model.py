"""The sentence model: what each sentence of a reply does, and what follows for the reply.

Each sentence has one of a few *tags*: it refuses, gives a reason, redirects, gives what was asked
for, ... Their probabilities are a softmax over a linear model of the sentence's n-grams, its
position, and the words that it shares with the request:

    P(tag) = softmax over tags of bias + sum of idf · weight / sqrt(sum of idf²)

A reply's *summary* is the maximum, the mean by words and the sum of each tag's probability, its
probability in the first, second and last sentence, how far the reply gives after it has refused,
and what four computed tests say of it. An *output* is a proposition about the reply: a logistic
model of the summary. It may have a text model too (see text_classifier.py); then its log-odds are
a weighted mean of the two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cai.constitution.schema import SentenceModel
from cai.probability import sigmoid
from cai.rubric.english import COMMON_WORDS
from cai.rubric.propositions import COMPUTED_TESTS, NormalizedReply
from cai.rubric.text_classifier import log_odds, ngrams_of

MAX_CHARACTERS = 20_000
"""What follows in a longer reply is not looked at."""
STATISTICS = ("max", "mean", "sum", "first", "second", "last")
"""Of each tag's probability over the sentences."""
REFUSES, GIVES = "refuses", "gives"
"""The two tags that a summary names."""
COMPUTED = ("comfort_only", "fragment", "garbled", "off_topic")
"""Computed tests whose verdicts are in a summary."""

_END = re.compile(r"(?<=[.!?])[\"')\]*]*\s+|(?<=[a-z]):\s+")
_WORD = re.compile(r"[\w']+")
_NO_LETTER = re.compile(r"[\W\d_]*")
_LIST_ITEM = re.compile(r"(?:\d{1,3}[.)]|[-*•])\s")
_STEM, _PREFIX = 4, 5
"""Letters that stand for a word: in the overlap with the request, and as a feature."""
Array = NDArray[np.float64]


def sentences_of(text: str) -> list[str]:
    """The sentences of a normalised text; a list's number stays with its item. At least one."""
    parts: list[str] = []
    for part in _END.split(text[:MAX_CHARACTERS]):
        if parts and _NO_LETTER.fullmatch(parts[-1]):
            parts[-1] = f"{parts[-1]} {part}".strip()
        else:
            parts.append(part)
    return parts


def stems_of(text: str) -> frozenset[str]:
    """The beginnings of the words that carry a topic, of a normalised text."""
    return frozenset(
        word[:_STEM] for word in _WORD.findall(text) if len(word) > 3 and word not in COMMON_WORDS
    )


def features_of(sentences: Sequence[str], wanted: frozenset[str]) -> list[set[str]]:
    """The features of each sentence; `wanted` are the stems of the request."""
    last = len(sentences) - 1
    return [
        _features(sentence, wanted) | _position(index, last)
        for index, sentence in enumerate(sentences)
    ]


def _position(index: int, last: int) -> set[str]:
    if last == 0:
        return {"#first", "#only"}
    return {{1: "#second", last: "#last", 0: "#first"}.get(index, "#middle")}


def _features(sentence: str, wanted: frozenset[str]) -> set[str]:
    words = _WORD.findall(sentence)
    features = set(words)
    features.update(map(" ".join, pairwise(words)))
    features.update(f"~{word[:_PREFIX]}" for word in words if len(word) > _PREFIX)
    features.add(f"#words {min(6, int(math.log2(len(words) + 1)))}")
    if words:
        features.update((f"^{words[0]}", f"^{' '.join(words[:2])}"))
    if sentence.endswith(("?", "!")):
        features.add(f"#{sentence[-1]}")
    if _LIST_ITEM.match(sentence):
        features.add("#item")
    if "you" in features or "your" in features:
        features.add("#you")
    return features | _overlap(words, wanted) if wanted else features


def _overlap(words: Sequence[str], wanted: frozenset[str]) -> set[str]:
    stems = {word[:_STEM] for word in words if len(word) > 3 and word not in COMMON_WORDS}
    if not stems:
        return {"#shared 0", "#no topic"}
    shared = len(stems & wanted)
    return {f"#shared {min(2, shared)}", f"#share {3 * shared // len(stems)}"}


def summary_names(tags: Sequence[str]) -> list[str]:
    """The names of a summary's numbers, in their order."""
    of_tags = [f"{statistic} {tag}" for statistic in STATISTICS for tag in tags]
    return [*of_tags, "gives after refuses", "log sentences", "log words", *COMPUTED]


def summary_of(reply: NormalizedReply, p_SK: Array, words_S: Array, tags: Sequence[str]) -> Array:
    """The summary of a reply.

    Args:
        p_SK: P(tag k) of sentence s.
        words_S: words of each sentence, at least 1.
    """
    refuses, gives = tags.index(REFUSES), tags.index(GIVES)
    refused_S = np.maximum.accumulate(p_SK[:, refuses])
    after = float((refused_S[:-1] * p_SK[1:, gives]).max()) if len(p_SK) > 1 else 0.0
    sums_K = p_SK.sum(0)
    return np.concatenate(
        [
            p_SK.max(0),
            words_S @ p_SK / words_S.sum(),
            np.log1p(sums_K),
            p_SK[0],
            p_SK[min(1, len(p_SK) - 1)],
            p_SK[-1],
            [after, math.log(len(p_SK) + 1), math.log(words_S.sum() + 1)],
            [COMPUTED_TESTS[test](reply) for test in COMPUTED],
        ]
    )


def word_counts(sentences: Sequence[str]) -> Array:
    """Words of each sentence, at least 1."""
    return np.array([max(1, len(_WORD.findall(sentence))) for sentence in sentences], float)


class SentenceScorer:
    """A sentence model, ready to score; it keeps the outputs of the last reply.

    The propositions of a rubric use the outputs of one model, one after another.
    """

    def __init__(self, model: SentenceModel) -> None:
        self.model = model
        self._row_of = {feature: row for row, feature in enumerate(model.weights, start=1)}
        self._known = frozenset(self._row_of)
        idf_V = np.array([0.0, *(model.idf.get(feature, 1.0) for feature in model.weights)])
        self._squares_V = idf_V**2
        zeros = (0.0,) * len(model.tags)
        self._weights_VK = np.array([zeros, *model.weights.values()]) * idf_V[:, None]
        self._bias_K = np.array(model.bias)
        names = summary_names(model.tags)
        self._names = list(model.outputs)
        self._outputs_NM = np.array(
            [[output.weights.get(name, 0.0) for name in names] for output in model.outputs.values()]
        )
        self._output_bias_N = np.array([output.bias for output in model.outputs.values()])
        self._text_log_odds = {
            name: (output.text_share, log_odds(output.text))
            for name, output in model.outputs.items()
            if output.text is not None
        }
        self._last: tuple[tuple[str, str], dict[str, float]] | None = None

    def __call__(self, reply: NormalizedReply) -> dict[str, float]:
        """Output -> P(it holds)."""
        key = (reply.prompt, reply.text)
        if self._last is None or self._last[0] != key:
            self._last = key, self._outputs(reply)
        return self._last[1]

    def tag_probabilities(self, features: Sequence[set[str]]) -> Array:
        """(S, K): P(tag k) of sentences with these features."""
        rows: list[int] = []
        starts = []
        for known in map(self._known.intersection, features):
            starts.append(len(rows))
            rows.append(0)  # a row of zeros: a sentence without known features has one row too
            rows += map(self._row_of.__getitem__, known)
        sums_SK = np.add.reduceat(self._weights_VK[rows], starts)
        lengths_S = np.sqrt(np.add.reduceat(self._squares_V[rows], starts))
        scores_SK = sums_SK / np.maximum(lengths_S, 1e-9)[:, None] + self._bias_K
        exp_SK = np.exp(scores_SK - scores_SK.max(1, keepdims=True))
        p_SK: Array = exp_SK / exp_SK.sum(1, keepdims=True)
        return p_SK

    def tags(self, reply: NormalizedReply) -> list[tuple[str, str, float]]:
        """(sentence, its most probable tag, P) in their order."""
        sentences = sentences_of(reply.text)
        p_SK = self.tag_probabilities(features_of(sentences, stems_of(reply.prompt)))
        return [
            (sentence, self.model.tags[int(p_K.argmax())], float(p_K.max()))
            for sentence, p_K in zip(sentences, p_SK, strict=True)
        ]

    def summary(self, reply: NormalizedReply) -> Array:
        """The summary of a reply, see `summary_names`."""
        sentences = sentences_of(reply.text)
        p_SK = self.tag_probabilities(features_of(sentences, stems_of(reply.prompt)))
        return summary_of(reply, p_SK, word_counts(sentences), self.model.tags)

    def _outputs(self, reply: NormalizedReply) -> dict[str, float]:
        summary_M = self.summary(reply)
        scores_N = self._outputs_NM @ summary_M + self._output_bias_N
        scores = dict(zip(self._names, scores_N.tolist(), strict=True))
        if self._text_log_odds:
            ngrams = ngrams_of(reply.unquoted)
            for name, (share, score) in self._text_log_odds.items():
                scores[name] = share * score(ngrams) + (1 - share) * scores[name]
        return {name: sigmoid(score) for name, score in scores.items()}


@dataclass(frozen=True, slots=True)
class SentenceTest:
    """A proposition that is an output of a sentence model.

    With `above`, the proposition holds where its probability is higher than that.
    """

    scorer: SentenceScorer
    output: str
    above: float | None

    def __call__(self, reply: NormalizedReply) -> float:
        p = self.scorer(reply)[self.output]
        return p if self.above is None else float(p > self.above)

    def evidence(self, reply: NormalizedReply) -> str | None:
        if self(reply) < 0.5:
            return None
        tags = [f"{tag} {p:.2f}" for _, tag, p in self.scorer.tags(reply)[:8]]
        return f"{self.scorer(reply)[self.output]:.2f} by its sentences: {', '.join(tags)}"
