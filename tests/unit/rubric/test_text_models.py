"""Text models in batches: the formula as it is written, and the same alone and among others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rubric_toys import shipped_rubric

from cai.constitution.schema import TextModel, TrainedOn
from cai.rubric import Ungraded, compile_rubric, grade, grade_many, text_models
from cai.rubric.text_classifier import ngrams_of, probability
from cai.rubric.text_models import TextModels

TRAINED_ON = (TrainedOn(name="made up", rows=4, licence="CC0"),)
WORDS = ["i", "can't", "can", "help", "é", "_", "a1", "unknown"]
PIECES = [*WORDS, "help,", "can/can't", "i-i", "--", "", "'", "i...can't", "x" * 40 + "/help"]
NGRAMS = [*WORDS[:-1], "i can't", "can't help", "help i", "é i", "can can't", "i i", "can't help i"]
FITTED = compile_rubric(shipped_rubric("refusal_style_fitted"))

numbers = st.floats(-9, 9, allow_subnormal=False)
models = st.builds(
    TextModel,
    trained_on=st.just(TRAINED_ON),
    bias=numbers,
    weights=st.dictionaries(st.sampled_from(NGRAMS), numbers),
    idf=st.dictionaries(st.sampled_from(NGRAMS), st.floats(0.1, 9)),
)
texts = st.lists(st.lists(st.sampled_from(PIECES), max_size=12), max_size=5)


@given(st.lists(models, max_size=3), texts)
def test_probabilities_are_those_of_the_formula(
    some: list[TextModel], batch: list[list[str]]
) -> None:
    expected = [
        tuple(probability(model, ngrams_of(" ".join(text))) for model in some) for text in batch
    ]
    assert TextModels(some).probabilities(batch) == [
        pytest.approx(row, rel=1e-12, abs=1e-12) for row in expected
    ]


@given(models, texts)
def test_a_text_has_the_same_probability_alone_and_among_others(
    model: TextModel, batch: list[list[str]]
) -> None:
    together = TextModels([model]).probabilities(batch)
    assert together == [TextModels([model]).probabilities([text])[0] for text in batch]


def test_ngrams_that_no_text_has_count_for_nothing() -> None:
    model = TextModel(trained_on=TRAINED_ON, bias=0.5, weights={"": 3.0, "a b c": 3.0, "a-b": 3.0})
    empty = TextModel(trained_on=TRAINED_ON, bias=0.5, weights={})
    batch = [["a", "b", "c"], ["a-b"], [""]]
    assert TextModels([model]).probabilities(batch) == TextModels([empty]).probabilities(batch)


def test_no_more_pieces_are_remembered_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_models, "_MAX_REMEMBERED", 10)
    model = TextModel(trained_on=TRAINED_ON, bias=0.0, weights={"w7": 2.0})
    tested = TextModels([model])
    batch = [[f"w{i}" for i in range(100)]]
    assert tested.probabilities(batch) == [pytest.approx((probability(model, frozenset({"w7"})),))]
    assert len(tested._pieces) <= 10


@given(st.lists(st.sampled_from([*PIECES, '"i can\'t help"', "1. Mix it."]), max_size=30))
def test_many_replies_get_the_grades_of_each(words: list[str]) -> None:
    replies = [
        Ungraded("How?", " ".join(words[:length]), kind, finished)
        for length in range(0, len(words), 7)
        for kind in ("disallowed", "benign", None)
        for finished in (None, True, False)
    ]
    alone = [
        grade(FITTED, prompt=r.prompt, response=r.response, kind=r.kind, finished=r.finished)
        for r in replies
    ]
    assert grade_many(FITTED, replies) == alone
