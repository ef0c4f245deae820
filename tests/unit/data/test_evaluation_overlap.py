"""Runs of words that many texts share with evaluation texts, against sets of runs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from cai.data import evaluation_overlap
from cai.data.evaluation_overlap import EvaluationRuns
from cai.data.words import words_of

LENGTH = 4
WORDS = ["the", "old", "house", "Is", "here", "请问", "😀", "can't", "\ud800", "x_1", "é", "ﬁn"]


def random_texts(count: int, seed: int) -> list[str]:
    """Some are empty, or shorter than a run."""
    stream = random.Random(seed)
    return [" ".join(stream.choices(WORDS, k=stream.randrange(9))) for _ in range(count)]


def plain_runs(words: Sequence[str]) -> set[tuple[str, ...]]:
    """A text shorter than a run is one run; one without words has none."""
    count = max(1, len(words) - LENGTH + 1)
    return {tuple(words[i : i + LENGTH]) for i in range(count)} - {()}


@pytest.mark.parametrize("seed", range(3))
def test_many_texts_as_plain_sets_have_them(seed: int) -> None:
    evaluation, texts = random_texts(60, seed), random_texts(400, seed + 10)
    known = set().union(*(plain_runs(words_of(text)) for text in evaluation))
    expected = [not known.isdisjoint(plain_runs(words_of(text))) for text in texts]
    runs = EvaluationRuns(LENGTH, evaluation)
    assert runs.overlaps(list(map(words_of, texts))) == expected
    assert [runs.overlap(words_of(text)) for text in texts] == expected
    assert 40 < sum(expected) < 360


def test_equal_sums_are_no_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """All words have one number here."""
    monkeypatch.setattr(evaluation_overlap, "crc32", lambda data: 7)
    monkeypatch.setattr(evaluation_overlap, "_NUMBERS", evaluation_overlap._Numbers())
    runs = EvaluationRuns(LENGTH, ["one two three four five"])
    texts = ["six seven eight nine", "so two three four five", "one two", "One, two, three! Four?"]
    assert runs.overlaps(list(map(words_of, texts))) == [False, True, False, True]


def test_few_numbers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = random_texts(100, 5)
    expected = EvaluationRuns(LENGTH, texts[:20]).overlaps(list(map(words_of, texts)))
    monkeypatch.setattr(evaluation_overlap, "KNOWN_WORDS", 3)
    monkeypatch.setattr(evaluation_overlap, "_NUMBERS", evaluation_overlap._Numbers())
    assert EvaluationRuns(LENGTH, texts[:20]).overlaps(list(map(words_of, texts))) == expected
    assert len(evaluation_overlap._NUMBERS) <= 3


@pytest.mark.parametrize("evaluation", [[], ["", " "], ["one two"], random_texts(20, 6)])
def test_another_process_has_the_same(tmp_path: Path, evaluation: list[str]) -> None:
    texts = [words_of(text) for text in ["one two", "", *random_texts(50, 7)]]
    runs = EvaluationRuns(LENGTH, evaluation)
    runs.save(tmp_path)
    loaded = EvaluationRuns.load(tmp_path, LENGTH)
    assert loaded.overlaps(texts) == runs.overlaps(texts)
    assert bool(loaded) == bool(runs) == (len(evaluation) in (1, 20))
