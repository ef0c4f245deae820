"""The evaluations by questions with options, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cai.errors import UsageError
from cai.evals import choice_scores, formats
from cai.evals.choices import LETTER, LETTERED, ChoiceAnswer, ChoiceItem
from cai.records import Score
from cai.seeds import rng
from cai.store import digest


@dataclass(frozen=True)
class ChoiceEvaluation:
    """A set of questions, and what their answers say of a model."""

    load: Callable[..., Iterable[ChoiceItem]]
    """From a path; where `has_columns`, also from field -> column."""
    scores: Callable[[str, Sequence[ChoiceAnswer]], list[Score]]
    """(beginning of the metrics' names, one model's answers) -> rows."""
    has_columns: bool = False
    """Whether the rows are the user's own, whose columns may be named."""


CHOICE_EVALUATIONS: dict[str, ChoiceEvaluation] = {
    "hhh": ChoiceEvaluation(formats.labelled_items, choice_scores.hhh_scores, True),
    "bbq": ChoiceEvaluation(formats.bbq_items, choice_scores.bbq_scores),
    "truthfulqa": ChoiceEvaluation(formats.truthfulqa_items, choice_scores.truthfulqa_scores),
    "winogender": ChoiceEvaluation(
        formats.winogender_items, partial(choice_scores.sentence_scores, first="male_rate")
    ),
    "crows-pairs": ChoiceEvaluation(
        formats.crows_pairs_items, partial(choice_scores.sentence_scores, first="stereotype_rate")
    ),
    "likert": ChoiceEvaluation(formats.likert_items, choice_scores.likert_scores, True),
    "calibration": ChoiceEvaluation(formats.labelled_items, choice_scores.labelled_scores, True),
}


def load_items(name: str, data: Path, columns: Mapping[str, str] | None = None) -> list[ChoiceItem]:
    """The questions of a file.

    Raises:
        UsageError: the file has none, or `columns` are named where the format has its own.
        StoreError: a row is wrong; the message begins with file:row.
    """
    evaluation = CHOICE_EVALUATIONS[name]
    if columns and not evaluation.has_columns:
        raise UsageError(f"--column: {name} reads the columns of its own format: leave it out")
    loaded = (
        evaluation.load(data, columns or {}) if evaluation.has_columns else evaluation.load(data)
    )
    items = list(loaded)
    if not items:
        raise UsageError(f"{data}: no row: there is nothing to evaluate")
    return items


def limited(items: Sequence[ChoiceItem], limit: int | None, seed: int) -> list[ChoiceItem]:
    """The questions about `limit` rows of the data, drawn by the seed, in their order."""
    rows = dict.fromkeys(item.source for item in items)
    chosen = set(sorted(rows, key=lambda row: rng(seed, "limit", row).random())[:limit])
    return [item for item in items if item.source in chosen]


def scores_of(name: str, answers: Sequence[ChoiceAnswer]) -> list[Score]:
    """The metrics of one model's answers."""
    return CHOICE_EVALUATIONS[name].scores(name.replace("-", "_"), answers)


def questions_digest(items: Iterable[ChoiceItem]) -> str:
    """A digest of what is asked: it changes with the data and with the wording."""
    return digest(LETTERED, LETTER, *(item.id for item in items))
