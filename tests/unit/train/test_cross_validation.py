"""Preferences of one's own: read, mixed in a ratio, and foreseen across groups of judges."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cai.cli import app
from cai.data.filters import HygieneConfig
from cai.data.preferences import clean_labelled_pairs, labelled_pairs
from cai.errors import CaiError, StoreError, TrainError
from cai.pipeline.preference_model import fresh_model
from cai.records import chat_of
from cai.reward.preference_model import PreferenceModel
from cai.train.cross_validation import cross_validate, folds, mix_pairs
from cai.train.preference import Comparison, RewardConfig, train

quiet = lambda done, total: None  # noqa: E731
DIALOGUE = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: and now?\n\nAssistant: "


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_both_shapes_are_read(tmp_path: Path) -> None:
    votes = [
        {"principle": "kind", "p_first": 0.9},
        {"principle": "brief", "p_first": None},
        {"principle": "true", "p_first": 0.2},
    ]
    file = lines(
        tmp_path / "x.jsonl",
        {"prompt": "q", "first": "a", "second": "b", "p_first": 0.7, "votes": votes, "who": 3},
        {"prompt": "q", "first": "a", "second": "b", "p_first": None, "votes": [], "who": 4},
    )
    assert [(r.first, r.second, r.p_first, r.group) for r in labelled_pairs(file)] == [
        ("a", "b", 0.7, None)
    ]
    assert [r.group for r in labelled_pairs(file, "who")] == ["3"]
    assert [(r.p_first, r.group) for r in labelled_pairs(file, "principle")] == [
        (0.9, "kind"),
        (0.2, "true"),
    ]
    passed_over: Counter[str] = Counter()
    list(labelled_pairs(file, passed_over=passed_over))
    assert passed_over == {"no verdict (`p_first` is null)": 1}
    parted = {"chosen": DIALOGUE, "rejected": "\n\nHuman: yo\n\nAssistant: x"}
    dialogues = lines(
        tmp_path / "y.jsonl", parted, {"chosen": DIALOGUE + "fine", "rejected": DIALOGUE + " no"}
    )
    [row] = labelled_pairs(dialogues, passed_over=passed_over)
    assert passed_over["`chosen` and `rejected` are about different conversations"] == 1
    assert row.number == 2
    assert (row.first, row.second, row.p_first) == ("fine", "no", 1.0)
    assert row.prompt.chat == chat_of(("user", "hi"), ("assistant", "hello"), ("user", "and now?"))


def test_what_is_held_out_is_not_learnt_from(tmp_path: Path) -> None:
    """A prompt of the evaluation, or a reply that says one, whatever stands around it; an equal system turn is no matter.

    Addresses are masked in both replies.
    """
    system = {
        "role": "system",
        "content": "You are a kind assistant who answers all questions in plain English.",
    }
    hello = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hi"}]
    rivers = [system, {"role": "user", "content": "Name nine rivers of the world, in order."}]
    held = lines(tmp_path / "held.jsonl", {"prompt": "Why is the sky blue?"}, {"chat": rivers})
    file = lines(
        tmp_path / "x.jsonl",
        {"prompt": "why is the sky BLUE", "first": "a", "second": "b", "p_first": 1},
        {
            "chat": [system, *hello, {"role": "user", "content": "Why is the sky blue?"}],
            "first": "a",
            "second": "b",
            "p_first": 1,
        },
        {
            "prompt": "q",
            "first": "He said: name nine rivers of the world in order!",
            "second": "b",
            "p_first": 1,
        },
        {
            "chat": [system, {"role": "user", "content": "q"}],
            "first": "write to ann@example.org",
            "second": "or to bob@example.org",
            "p_first": 0.2,
        },
    )
    left, gone = clean_labelled_pairs(labelled_pairs(file), HygieneConfig(pii="mask"), [held])
    assert gone == {"in an evaluation": 3}
    assert [(row.p_first, "ann@" in row.first, "bob@" in row.second) for row in left] == [
        (0.2, False, False)
    ]
    assert left[0].first.startswith("write to")
    assert left[0].second.startswith("or to")


@pytest.mark.parametrize(
    ("row", "by", "message"),
    [
        ({"prompt": "q", "first": "a", "p_first": 1}, None, "needs `second`"),
        (
            {"prompt": "q", "first": "a", "second": "b", "p_first": 1.5},
            None,
            "`p_first` must be a probability or null, found 1.5",
        ),
        (
            {"prompt": "q", "first": "a", "second": "b", "p_first": True},
            None,
            "must be a probability or null, found True",
        ),
        ({"prompt": "q", "first": "a", "second": "b", "p_first": 1}, "who", "needs `who`"),
        ({"prompt": "q", "first": "a", "second": "b", "p_first": 1}, "principle", "needs `votes`"),
        ({"chosen": DIALOGUE, "rejected": "no dialogue"}, None, "`rejected` must be a dialogue"),
    ],
)
def test_wrong_rows_are_named(
    row: dict[str, object], by: str | None, message: str, tmp_path: Path
) -> None:
    file = lines(tmp_path / "x.jsonl", row)
    with pytest.raises(StoreError, match=message) as caught:
        list(labelled_pairs(file, by))
    assert str(caught.value).startswith(f"{file}:1: ")


def test_folds_by_hand() -> None:
    """Sizes 4, 3, 2, 1, 1: a opens the first, b the second; c (2) joins b, d (1) joins a at 4, e joins the smaller of 5 and 5."""
    groups = ["a"] * 4 + ["b"] * 3 + ["c"] * 2 + ["d"] + ["e"]
    assert folds(groups, 2) == [("a", "d", "e"), ("b", "c")]
    with pytest.raises(TrainError, match="3 parts need as many groups, there are 2: a, b"):
        folds(["a", "b"], 3)


def test_mixed_by_hand() -> None:
    """Own 6, others 6, own a quarter: 2 own to 6 others. Three quarters: 6 own to 2 others. Nothing to mix: all there is."""
    own = [Comparison(f"o{i}", [i], [i], 1.0) for i in range(6)]
    others = [Comparison(f"x{i}", [i], [i], 1.0) for i in range(6)]
    order = {c.prompt: -i for i, c in enumerate([*own, *others])}

    def names(
        share: float | None, left: list[Comparison] = own, right: list[Comparison] = others
    ) -> list[str]:
        return [c.prompt for c in mix_pairs(left, right, share, lambda c: order[c.prompt])]

    assert names(0.25) == ["o5", "o4", *[f"x{i}" for i in range(6)]]
    assert names(0.75) == [*[f"o{i}" for i in range(6)], "x5", "x4"]
    assert names(None) == [c.prompt for c in [*own, *others]]
    assert len(names(0.01)) == 7, "a small share is not none"
    assert names(0.5, own, []) == [c.prompt for c in own]


def judged(
    model: PreferenceModel, group: str, count: int, good: str
) -> list[tuple[str, Comparison]]:
    """Replies of `good` beat the others, in both places."""
    found = []
    for i in range(count):
        asked, bad = chat_of(("user", f"{group} {i}")), "a" if good == "z" else "z"
        better, worse = model.rows(asked, good * (1 + i % 3)), model.rows(asked, bad * (1 + i % 3))
        one = (
            Comparison(f"{group}{i}", better, worse, 1.0)
            if i % 2
            else Comparison(f"{group}{i}", worse, better, 0.0)
        )
        found.append((group, one))
    return found


def test_who_agrees_is_foreseen_and_who_does_not_is_not(tiny_model: Path) -> None:
    """Two judges prefer z, a third a: what is learnt from the two is wrong about every verdict of the third."""
    config = RewardConfig(rank=4, learning_rate=1e-2, epochs=4, batch_size=4)

    def fresh() -> PreferenceModel:
        return fresh_model(str(tiny_model), config, 0)

    model = fresh()
    comparisons = (
        judged(model, "x", 8, "z") + judged(model, "y", 8, "z") + judged(model, "w", 8, "a")
    )
    shown: list[tuple[int, int]] = []
    found = cross_validate(
        fresh,
        comparisons,
        3,
        config,
        seed=0,
        progress=lambda done, total: shown.append((done, total)),
    )
    assert {fold.groups: fold.learnt_from for fold in found} == {("x",): 16, ("y",): 16, ("w",): 16}
    against = next(fold for fold in found if fold.groups == ("w",))
    assert [m.agrees for m in against.measured] == [0.0] * 8
    assert shown[-1][0] == shown[-1][1]
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)


def test_a_prompt_judged_by_several_is_on_one_side(tiny_model: Path) -> None:
    """Both judges saw the same prompts: to leave one out leaves nothing to learn from, and that is said."""
    config = RewardConfig(rank=4)
    model = fresh_model(str(tiny_model), config, 0)
    both = [
        (group, comparison)
        for group in ("x", "y")
        for _, comparison in judged(model, "same", 4, "z")
    ]
    with pytest.raises(TrainError, match="without x and the prompts they judged, nothing is left"):
        cross_validate(lambda: model, both, 2, config, seed=0, progress=quiet)


def test_blocks_that_do_not_learn_are_computed_once_and_change_nothing(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RewardConfig(rank=4, layers=1, epochs=3, batch_size=4, learning_rate=1e-2)
    heads = []
    for kept in (1 << 30, 0):
        monkeypatch.setattr("cai.train.preference.MAX_CACHE_BYTES", kept)
        model, calls = fresh_model(str(tiny_model), config, 0), []
        first = model.shared[0].get_base_model().model.layers[0].mlp
        first.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        train(model, [c for _, c in judged(model, "x", 8, "z")], config, seed=0, progress=quiet)
        heads.append(model.head.weight.detach().clone())
        assert len(calls) == (2 if kept else 6)  # two batches, three epochs
    assert torch.equal(*heads)


def test_the_command_trains_measures_and_saves(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"{who} {i}",
            "first": "z" * (1 + i % 3),
            "second": "a" * (1 + i % 3),
            "p_first": 1.0,
            "who": who,
        }
        for who in ("x", "y", "w")
        for i in range(8)
    ]
    given = [
        "fit-reward",
        "--model",
        f"local:{tiny_model}",
        "--input",
        str(lines(tmp_path / "mine.jsonl", *rows)),
    ]
    given += [
        "--output",
        str(tmp_path / "reward"),
        "--set",
        "epochs=4",
        "--set",
        "learning_rate=0.01",
        "--set",
        "rank=4",
    ]
    found = CliRunner().invoke(app, [*given, "--folds", "3", "--by", "who"])
    assert found.exit_code == 0, found.output
    assert "all" in found.output
    assert "held-out reward.agreement: 1.000" in found.output
    metrics = json.loads((tmp_path / "reward" / "metrics.json").read_text())
    assert metrics["train_pairs"] == 19  # 24 prompts less a fifth
    model = PreferenceModel.load(*fresh_parts(tiny_model), tmp_path / "reward")
    asked = chat_of(("user", "something new"))
    good, bad = model.score([model.rows(asked, "zz"), model.rows(asked, "aa")])
    assert good > bad
    assert "is there already" in str(CliRunner().invoke(app, given).exception)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "ranks=4"], "--set ranks"),
        (["--set", "epochs=["], "is not YAML"),
        (["--set", "epochs"], "expected KEY=VALUE"),
        (["--set", "own_share=0.5"], "no other pairs"),
        (["--model", "fake:brief"], "training needs weights"),
        (["--input", "gone.jsonl"], "gone.jsonl"),
    ],
)
def test_wrong_usage_is_one_line(
    more: list[str], message: str, tiny_model: Path, tmp_path: Path
) -> None:
    file = lines(tmp_path / "x.jsonl", {"prompt": "q", "first": "a", "second": "b", "p_first": 1})
    given = [
        "fit-reward",
        "--model",
        f"local:{tiny_model}",
        "--input",
        str(file),
        "--output",
        str(tmp_path / "out"),
    ]
    found = CliRunner().invoke(app, [*given, *more])
    assert isinstance(found.exception, CaiError), found.exception
    assert message in str(found.exception)
    assert "\n" not in str(found.exception)


def test_verdicts_of_two_people_on_one_prompt_are_on_one_side(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Who judged is a field of the row, and no part of what the prompt is: without the first's prompts nothing is left."""
    rows = [
        {"prompt": f"{i}", "first": "z", "second": "a", "p_first": 1.0, "user": who}
        for who in ("ann", "bob")
        for i in range(3)
    ]
    given = [
        "fit-reward",
        "--model",
        f"local:{tiny_model}",
        "--input",
        str(lines(tmp_path / "x.jsonl", *rows)),
    ]
    found = CliRunner().invoke(
        app, [*given, "--output", str(tmp_path / "out"), "--folds", "2", "--by", "user"]
    )
    assert "nothing is left to learn from" in str(found.exception)


def fresh_parts(tiny: Path) -> tuple[object, object]:
    from cai.modeling.loading import load_model
    from cai.modeling.lora import with_adapter
    from cai.modeling.tokenization import load_renderer

    return with_adapter(load_model(str(tiny)), "policy", 2), load_renderer(str(tiny))
