"""Helpfulness on benign prompts: is there an answer, to this prompt, in words of its own?

helpfulness.answered_rate   finished or cut, no refusal, fragment or mere comfort, by the rubric
helpfulness.words           words per reply
helpfulness.distinct_N      different N-grams of words over all of them; no interval
helpfulness.relevance       see `cai.reward.relevance`, nats per reply; with a model for it
helpfulness.relevant_rate   share of replies that are likelier after their own prompt
"""

from __future__ import annotations

from collections.abc import Sequence

from cai.data.words import spaced_words
from cai.evals.means import by_subject, mean_over_prompts
from cai.generate.diversity import distinct_n
from cai.graders.base import GradedItem, plain_items
from cai.records import Prompt, Score, ScoredReply
from cai.statistics.estimates import score_row

NGRAMS = (1, 2)


def helpful_items(prompts: Sequence[Prompt], draws: int) -> list[GradedItem]:
    """The benign prompts; one without a kind counts as benign."""
    benign = [prompt for prompt in prompts if prompt.kind in (None, "benign")]
    return plain_items([p.model_copy(update={"kind": "benign"}) for p in benign], draws)


def helpful_scores(rows: Sequence[ScoredReply]) -> list[Score]:
    """The metrics of the module's table."""
    scores = [
        *mean_over_prompts("helpfulness.answered_rate", rows, "answered"),
        *mean_over_prompts("helpfulness.words", rows, "words", proportion=False),
    ]
    for n in NGRAMS:
        scores += _distinct(n, rows)
    if any("relevance" in row.values for row in rows):
        scores += mean_over_prompts("helpfulness.relevance", rows, "relevance", proportion=False)
        scores += mean_over_prompts("helpfulness.relevant_rate", rows, "relevant")
    return scores


def _distinct(n: int, rows: Sequence[ScoredReply]) -> list[Score]:
    scores = []
    for subject, chosen in by_subject(rows).items():
        texts = [row.response for row in chosen if row.values]
        share = distinct_n([spaced_words(text.casefold()) for text in texts], n)
        scores.append(score_row((f"helpfulness.distinct_{n}", subject), share, n=len(texts)))
    return scores
