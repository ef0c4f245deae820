"""Groups left out in two layers: which rows are on which side, and the scores by hand."""

from __future__ import annotations

import pytest

from cai.errors import JobError
from cai.report.grader_card import grader_card
from cai.rubric import held_out_groups
from cai.rubric.held_out_groups import choose, f1_by_label, folds_of, leave_out, macro_f1
from cai.rubric.text_classifier import Labelled, TextFit, fit_text, ngrams_of

FIT = TextFit(replies=1)


def replies_of(group: str, count: int = 8) -> list[Labelled]:
    """Half yes and half no, with a word of the group in each."""
    texts = (("sure", True), ("sorry", False))
    return [
        Labelled(f"p{i}", ngrams_of(f"{texts[i % 2][0]} {group}"), texts[i % 2][1], group=group)
        for i in range(count)
    ]


ROWS = [*replies_of("one"), *replies_of("two"), *replies_of("three")]
WRITTEN = [Labelled("w", ngrams_of("sorry"), False), Labelled("v", ngrams_of("sure"), True)]


def test_each_group_is_left_out_once_and_rows_without_one_never() -> None:
    folds = folds_of([*ROWS, *WRITTEN])
    assert [fold.name for fold in folds] == ["one", "three", "two"]
    for fold in folds:
        assert {row.group for row in fold.test} == {fold.name}
        assert fold.name not in {row.group for row in fold.train}
        assert all(row in fold.train for row in WRITTEN)
        assert len(fold.train) + len(fold.test) == 26


def test_with_one_group_prompts_are_left_out() -> None:
    folds = folds_of(replies_of("one", 40))
    assert sum(len(fold.test) for fold in folds) == 40
    for fold in folds:
        assert not {row.prompt for row in fold.train} & {row.prompt for row in fold.test}


def test_a_group_with_one_label_is_not_left_out_by_itself() -> None:
    only_yes = [row for row in replies_of("four") if row.holds]
    assert {fold.name for fold in folds_of([*ROWS, *only_yes])} == {"one", "two", "three"}


def test_no_fit_of_a_fold_sees_the_group_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def fit(rows, config, trained_on):  # type: ignore[no-untyped-def]
        seen.append({row.group for row in rows})
        return fit_text(rows, config, trained_on)

    monkeypatch.setattr(held_out_groups, "fit_text", fit)
    tested = leave_out(ROWS, FIT)
    assert [fold.fold.name for fold in tested] == ["one", "three", "two"]
    # a fold: two inner folds of three strengths each, and the fit that is tested
    for index, name in enumerate(("one", "three", "two")):
        fits = seen[7 * index : 7 * index + 7]
        assert all(name not in groups for groups in fits)
        assert sorted(map(len, fits)) == [1] * 6 + [2]
    assert all(fold.verdicts == [row.holds for row in fold.fold.test] for fold in tested)


def test_of_equally_good_settings_the_middle_threshold_and_the_smallest_strength() -> None:
    choice = choose(ROWS, FIT)
    assert (choice.above, choice.config.strength) == (0.5, 4.0)


def test_too_few_prompts_are_refused() -> None:
    with pytest.raises(JobError, match="label more prompts"):
        choose(WRITTEN, FIT)


def test_f1_by_hand() -> None:
    """yes: 1 right, 2 in truth, 1 in verdicts: 2/3. no: 1 right, 1 and 2: 2/3."""
    scores = f1_by_label(["yes", "yes", "no"], ["yes", "no", "no"])
    assert scores == {"yes": pytest.approx(2 / 3), "no": pytest.approx(2 / 3)}
    assert macro_f1(["yes", "yes"], ["yes", "maybe"]) == pytest.approx(2 / 3)


def test_the_card_has_each_group_and_no_markup_of_its_names() -> None:
    tested = leave_out([*ROWS, *replies_of("<b>|x")], FIT)
    card = grader_card("mine", fit_text(ROWS, FIT, ()), 0.5, tested)
    assert "| one | 8 | 4 | 100.0% [" in card
    assert "<b>" not in card
    assert "| all | 32 | 16 |" in card
