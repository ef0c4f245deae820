"""Cross-validation across groups of judges, and the mix of two sets of pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
from interruptions import quiet

from cai.errors import TrainError
from cai.pipeline.preference_model import fresh_model
from cai.records import chat_of
from cai.reward.preference_model import PreferenceModel
from cai.train.comparison import Comparison
from cai.train.cross_validation import cross_validate, folds, mix_pairs
from cai.train.preference import RewardConfig


def test_folds_by_hand() -> None:
    """Sizes 4, 3, 2, 1, 1: a in the first fold, b in the second; c joins b, d and e join a."""
    groups = ["a"] * 4 + ["b"] * 3 + ["c"] * 2 + ["d"] + ["e"]
    assert folds(groups, 2) == [("a", "d", "e"), ("b", "c")]
    with pytest.raises(TrainError, match="3 parts need as many groups, there are 2: a, b"):
        folds(["a", "b"], 3)


def test_mixed_by_hand() -> None:
    """6 of the run, 6 others. A quarter: 2 to 6. Three quarters: 6 to 2. Nothing to mix: all."""
    run_pairs = [Comparison(f"o{i}", [i], [i], 1.0) for i in range(6)]
    others = [Comparison(f"x{i}", [i], [i], 1.0) for i in range(6)]
    order = {c.prompt: -i for i, c in enumerate([*run_pairs, *others])}

    def names(
        share: float | None, left: list[Comparison] = run_pairs, right: list[Comparison] = others
    ) -> list[str]:
        return [c.prompt for c in mix_pairs(left, right, share, lambda c: order[c.prompt])]

    assert names(0.25) == ["o5", "o4", *[f"x{i}" for i in range(6)]]
    assert names(0.75) == [*[f"o{i}" for i in range(6)], "x5", "x4"]
    assert names(None) == [c.prompt for c in [*run_pairs, *others]]
    assert len(names(0.01)) == 7, "a small share is not none"
    assert names(0.5, run_pairs, []) == [c.prompt for c in run_pairs]


def judged(
    model: PreferenceModel, group: str, count: int, good: str
) -> list[tuple[str, Comparison]]:
    """Replies of `good` beat the others, as first and as second reply in turn."""
    bad = "a" if good == "z" else "z"
    comparisons = []
    for i in range(count):
        chat = chat_of(("user", f"{group} {i}"))
        better = model.rows(chat, good * (1 + i % 3))
        worse = model.rows(chat, bad * (1 + i % 3))
        comparison = (
            Comparison(f"{group}{i}", better, worse, 1.0)
            if i % 2
            else Comparison(f"{group}{i}", worse, better, 0.0)
        )
        comparisons.append((group, comparison))
    return comparisons


def test_who_agrees_is_foreseen_and_who_does_not_is_not(tiny_model: Path) -> None:
    """Two judges prefer z, a third a: trained on the two, the model is wrong about the third."""
    config = RewardConfig(lora_rank=4, learning_rate=1e-2, epochs=4, batch_size=4)

    def fresh() -> PreferenceModel:
        return fresh_model(str(tiny_model), config, 0)

    model = fresh()
    comparisons = (
        judged(model, "x", 8, "z") + judged(model, "y", 8, "z") + judged(model, "w", 8, "a")
    )
    reports: list[tuple[int, int]] = []
    results = cross_validate(
        fresh,
        comparisons,
        3,
        config,
        seed=0,
        progress=lambda done, total: reports.append((done, total)),
    )
    assert {fold.groups: fold.train_pairs for fold in results} == {
        ("x",): 16,
        ("y",): 16,
        ("w",): 16,
    }
    against = next(fold for fold in results if fold.groups == ("w",))
    assert [m.agrees for m in against.agreements] == [0.0] * 8
    assert reports[-1][0] == reports[-1][1]
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


def test_a_prompt_judged_by_several_is_on_one_side(tiny_model: Path) -> None:
    """Both judges saw the same prompts: leaving one out leaves nothing to train on, an error."""
    config = RewardConfig(lora_rank=4)
    model = fresh_model(str(tiny_model), config, 0)
    both = [
        (group, comparison)
        for group in ("x", "y")
        for _, comparison in judged(model, "same", 4, "z")
    ]
    with pytest.raises(TrainError, match="without x and the prompts they judged, nothing is left"):
        cross_validate(lambda: model, both, 2, config, seed=0, progress=quiet)
