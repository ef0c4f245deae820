"""Scores of prompts that overlap with training texts, and of the others.

    contamination.overlapping_share      share of the prompts that overlap
    contamination.overlapping.METRIC     a metric over replies to these
    contamination.other.METRIC           the same over the others

Two texts overlap if they share a run of `NGRAM` words (a shorter text: if it is such a run), as in
the filter that keeps evaluation texts out of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from cai.data.filters import HygieneConfig, PromptFilters, compared_text
from cai.evals.means import by_subject
from cai.records import Prompt, Score
from cai.statistics.estimates import estimate

RowT = TypeVar("RowT", bound=Any)
PARTS = ("overlapping", "other")


def overlapping_prompts(prompts: Iterable[Prompt], training: Iterable[Prompt]) -> set[str]:
    """Ids of the prompts that overlap with a training prompt."""
    texts = (compared_text(prompt) for prompt in training)
    rules = PromptFilters(HygieneConfig(), lambda text: 0, texts)
    return {p.id for p in prompts if rules.overlaps_evaluation(compared_text(p))}


def contamination_scores(
    rows: Sequence[RowT], overlapping: set[str], scores: Callable[[Sequence[RowT]], list[Score]]
) -> list[Score]:
    """The metrics of the module's table.

    Args:
        rows: with `source`, the id of the prompt, and `subject`.
        overlapping: ids of the prompts that overlap.
        scores: the evaluation's own, of some of the rows.
    """
    split: list[Score] = []
    for subject, chosen in by_subject(rows).items():
        prompts = dict.fromkeys(row.source for row in chosen)
        hits: list[float | None] = [float(prompt in overlapping) for prompt in prompts]
        split.append(estimate("contamination.overlapping_share", subject, hits, proportion=True))
    for part in PARTS:
        chosen = [row for row in rows if (row.source in overlapping) == (part == PARTS[0])]
        if chosen:
            split += [
                score.model_copy(update={"metric": f"contamination.{part}.{score.metric}"})
                for score in scores(chosen)
            ]
    return split
