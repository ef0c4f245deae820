"""How well a grader does on models that it was not fitted on: groups left out, in two layers.

A group of replies (a model's, or a set's) is left out. On the others, settings and threshold are
chosen by leaving out each of their groups in turn; then a model is fitted on all of them and tested
on the group. Nothing of the group has a part in the choice. Where there are too few groups, the
folds are of prompts, so that replies to one prompt are on one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cai.constitution.schema import TextModel
from cai.errors import JobError
from cai.rubric.text_classifier import Labelled, TextFit, fit_text, scorer
from cai.seeds import rng

THRESHOLDS = (0.4, 0.5, 0.6)
STRENGTHS = (4.0, 16.0, 64.0)
"""Inverse penalties to choose from."""
PROMPT_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Fold:
    name: str
    train: list[Labelled]
    test: list[Labelled]


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings, and the threshold from which on the proposition holds."""

    config: TextFit
    above: float


@dataclass(frozen=True, slots=True)
class TestedFold:
    """The verdicts on replies of a group that had no part in the fit."""

    fold: Fold
    choice: Choice
    verdicts: list[bool]
    """In the order of `fold.test`."""


def folds_of(rows: Sequence[Labelled], seed: int = 0) -> list[Fold]:
    """Each group left out once; where fewer than two have both labels, five parts of the prompts.

    Rows without a group are in every training part.
    """
    labels: dict[str, set[bool]] = {}
    for row in rows:
        if row.group:
            labels.setdefault(row.group, set()).add(row.holds)
    names = sorted(name for name, seen in labels.items() if len(seen) == 2)
    if len(names) >= 2:
        return [
            Fold(
                name,
                [row for row in rows if row.group != name],
                [row for row in rows if row.group == name],
            )
            for name in names
        ]
    prompts = sorted(
        {row.prompt for row in rows}, key=lambda prompt: rng(seed, "fold", prompt).random()
    )
    part_of = {prompt: index % PROMPT_FOLDS for index, prompt in enumerate(prompts)}
    parts = [
        Fold(
            f"prompts {part + 1} of {PROMPT_FOLDS}",
            [row for row in rows if part_of[row.prompt] != part],
            [row for row in rows if part_of[row.prompt] == part],
        )
        for part in range(PROMPT_FOLDS)
    ]
    return [part for part in parts if part.test and has_both_labels(part.train)]


def choose(rows: Sequence[Labelled], config: TextFit, seed: int = 0) -> Choice:
    """The strength and the threshold of the best mean F1 over folds of `rows`.

    Of equally good ones, the threshold nearest to 0.5 and then the smaller strength.

    Raises:
        JobError: there are too few rows for folds.
    """
    scores: dict[tuple[float, float], list[float]] = {}
    folds = folds_of(rows, seed)
    if not folds:
        raise JobError("fit-grader: too few replies to leave some out: label more prompts")
    for fold in folds:
        truth = [row.holds for row in fold.test]
        for strength in STRENGTHS:
            stronger = config.model_copy(update={"strength": strength})
            model = fit_text(fold.train, stronger, ())
            values = [*map(scorer(model), (row.ngrams for row in fold.test))]
            for above in THRESHOLDS:
                score = macro_f1(truth, [value > above for value in values])
                scores.setdefault((strength, above), []).append(score)
    strength, above = max(
        scores, key=lambda key: (round(fmean(scores[key]), 6), -abs(key[1] - 0.5), -key[0])
    )
    return Choice(config.model_copy(update={"strength": strength}), above)


def fit_chosen(rows: Sequence[Labelled], config: TextFit, seed: int = 0) -> tuple[TextModel, float]:
    """(a model of all rows, its threshold), both with settings chosen by folds of the rows."""
    choice = choose(rows, config, seed)
    return fit_text(rows, choice.config, ()), choice.above


def leave_out(rows: Sequence[Labelled], config: TextFit, seed: int = 0) -> list[TestedFold]:
    """Each fold's verdicts, by a model and settings that know the other folds alone."""
    tested = []
    for fold in folds_of(rows, seed):
        choice = choose(fold.train, config, seed)
        model = fit_text(fold.train, choice.config, ())
        score = scorer(model)
        verdicts = [score(row.ngrams) > choice.above for row in fold.test]
        tested.append(TestedFold(fold, choice, verdicts))
    return tested


def has_both_labels(rows: Sequence[Labelled]) -> bool:
    return len({row.holds for row in rows}) == 2


def macro_f1(truth: Sequence[object], verdicts: Sequence[object]) -> float:
    """The mean F1 over the labels that occur in `truth`."""
    return fmean(f1_by_label(truth, verdicts).values())


def f1_by_label(truth: Sequence[object], verdicts: Sequence[object]) -> Mapping[object, float]:
    """Label in `truth` -> 2 · right / (times in truth + times in verdicts)."""
    pairs = list(zip(truth, verdicts, strict=True))
    scores = {}
    for label in dict.fromkeys(truth):
        both = sum(people == label == verdict for people, verdict in pairs)
        either = sum((people == label) + (verdict == label) for people, verdict in pairs)
        scores[label] = 2 * both / either
    return scores
