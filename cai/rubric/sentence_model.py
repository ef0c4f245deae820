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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise, repeat

import numpy as np
from numpy.typing import NDArray

from cai.constitution.schema import SentenceModel
from cai.probability import sigmoid
from cai.rubric.propositions import COMPUTED_TESTS, NormalizedReply
from cai.rubric.sentence_features import (
    features_of,
    other_features,
    position_features,
    sentences_of,
    stems_of,
    word_features,
)
from cai.rubric.text_models import WORD, Remembered, TextModels

STATISTICS = ("max", "mean", "sum", "first", "second", "last")
"""Of each tag's probability over the sentences."""
REFUSES, GIVES = "refuses", "gives"
"""The two tags that a summary names."""
COMPUTED = ("comfort_only", "fragment", "garbled", "off_topic")
"""Computed tests whose verdicts are in a summary."""

Array = NDArray[np.float64]


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
    summaries_BM = summaries_of([reply], [len(p_SK)], p_SK, words_S, tags)
    return summaries_BM.ravel()


def summaries_of(
    replies: Sequence[NormalizedReply],
    counts: Sequence[int],
    p_SK: Array,
    words_S: Array,
    tags: Sequence[str],
) -> Array:
    """(B, M): the summary of each reply.

    Args:
        counts: sentences of each reply, at least 1.
        p_SK: P(tag k) of sentence s; those of all replies, one after another.
        words_S: words of each sentence, at least 1.
    """
    count_B = np.array(counts)
    end_B = np.cumsum(count_B)
    start_B = end_B - count_B
    words_B = np.add.reduceat(words_S, start_B)
    after_B = _gives_after_refusing(count_B, p_SK, tags)
    computed_B4 = [[COMPUTED_TESTS[test](reply) for test in COMPUTED] for reply in replies]
    return np.concatenate(
        [
            np.maximum.reduceat(p_SK, start_B),
            np.add.reduceat(words_S[:, None] * p_SK, start_B) / words_B[:, None],
            np.log1p(np.add.reduceat(p_SK, start_B)),
            p_SK[start_B],
            p_SK[np.minimum(start_B + 1, end_B - 1)],
            p_SK[end_B - 1],
            np.stack([after_B, np.log(count_B + 1), np.log(words_B + 1)], axis=1),
            np.array(computed_B4),
        ],
        axis=1,
    )


def _gives_after_refusing(counts: Iterable[int], p_SK: Array, tags: Sequence[str]) -> list[float]:
    """Of each reply: the largest P(refuses) of a sentence times P(gives) of a later one."""
    refuses = iter(p_SK[:, tags.index(REFUSES)].tolist())
    gives = iter(p_SK[:, tags.index(GIVES)].tolist())
    largest = []
    for count in counts:
        refused = after = 0.0
        for p_refuses, p_gives in zip(islice(refuses, count), islice(gives, count), strict=True):
            after = max(after, refused * p_gives)
            refused = max(refused, p_refuses)
        largest.append(after)
    return largest


_Key = tuple[str, str, bool | None]


def _key(reply: NormalizedReply) -> _Key:
    """What the outputs for a reply depend on."""
    return reply.prompt, reply.text, reply.finished


class SentenceScorer:
    """A sentence model, ready to score; it keeps the outputs of the replies it was prepared for.

    The propositions of a rubric use the outputs of one model, one after another.
    """

    def __init__(self, model: SentenceModel) -> None:
        self.model = model
        self._row_of = {feature: row for row, feature in enumerate(model.weights, start=1)}
        self._rows_of_word = Remembered(self._rows_of_features_of)
        self._row_of_pair = {
            tuple(feature.split(" ")): row
            for feature, row in self._row_of.items()
            if " " in feature
        }
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
        outputs = list(model.outputs.values())
        self._text_models = TextModels([one.text for one in outputs if one.text is not None])
        self._text_shares = [
            (column, one.text_share) for column, one in enumerate(outputs) if one.text is not None
        ]
        """(output, share) of each text model."""
        self._prepared: dict[_Key, dict[str, float]] = {}

    def __call__(self, reply: NormalizedReply) -> dict[str, float]:
        """Output -> P(it holds)."""
        known = self._prepared.get(_key(reply))
        return self._outputs([reply])[0] if known is None else known

    def prepare(self, replies: Sequence[NormalizedReply]) -> None:
        """Score the replies that will be tested next, all at once: the numbers are the same."""
        self._prepared = dict(zip(map(_key, replies), self._outputs(replies), strict=True))

    def tag_probabilities(self, features: Sequence[set[str]]) -> Array:
        """(S, K): P(tag k) of sentences with these features."""
        return self._tag_probabilities(
            [
                {self._row_of[feature] for feature in known}
                for known in map(self._row_of.keys().__and__, features)
            ]
        )

    def _known_rows(
        self, sentences: Sequence[str], words_of: Sequence[Sequence[str]], wanted: frozenset[str]
    ) -> Iterator[set[int]]:
        """The rows of each sentence's known features: those of `features_of`.

        Args:
            words_of: the words of each sentence.
        """
        last = len(sentences) - 1
        for index, (text, words) in enumerate(zip(sentences, words_of, strict=True)):
            rows = set(chain.from_iterable(map(self._rows_of_word.__getitem__, words)))
            rows.update(map(self._row_of_pair.get, pairwise(words), repeat(0)))
            others = (*other_features(text, words, wanted), *position_features(index, last))
            rows.update(map(self._row_of.get, others, repeat(0)))
            rows.discard(0)
            yield rows

    def _rows_of_features_of(self, word: str) -> tuple[int, ...]:
        rows = (self._row_of.get(feature, 0) for feature in word_features(word))
        return tuple(filter(None, rows))

    def _tag_probabilities(self, rows_of: Iterable[set[int]]) -> Array:
        """(S, K), of sentences with the features in these rows."""
        rows: list[int] = []
        starts = []
        for known in rows_of:
            starts.append(len(rows))
            rows.append(0)  # a row of zeros: a sentence without known features has one row too
            rows += sorted(known)  # sums depend on the order
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
        return self._summaries([reply]).ravel()

    def _summaries(self, replies: Sequence[NormalizedReply]) -> Array:
        split = [sentences_of(reply.text) for reply in replies]
        words = [list(map(WORD.findall, sentences)) for sentences in split]
        rows = [
            self._known_rows(sentences, words_of, stems_of(reply.prompt))
            for words_of, sentences, reply in zip(words, split, replies, strict=True)
        ]
        p_SK = self._tag_probabilities(chain.from_iterable(rows))
        words_S = np.array([max(1, len(of)) for of in chain.from_iterable(words)], float)
        counts = [len(sentences) for sentences in split]
        return summaries_of(replies, counts, p_SK, words_S, self.model.tags)

    def _outputs(self, replies: Sequence[NormalizedReply]) -> list[dict[str, float]]:
        summaries_BM = self._summaries(replies)
        # a product of matrices would differ with the number of replies, in the last bits
        products_BNM = summaries_BM[:, None, :] * self._outputs_NM
        scores_BN = products_BNM.sum(2) + self._output_bias_N
        texts_BT = self._text_models.log_odds([reply.unquoted.split(" ") for reply in replies])
        for text, (column, share) in enumerate(self._text_shares):
            scores_BN[:, column] = share * texts_BT[:, text] + (1 - share) * scores_BN[:, column]
        return [
            dict(zip(self._names, map(sigmoid, scores_N), strict=True))
            for scores_N in scores_BN.tolist()
        ]


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
