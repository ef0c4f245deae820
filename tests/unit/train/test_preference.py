"""The preference model: one score for one text wherever it is asked for, soft labels, an honest split; parts of a reward."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

import pytest
import torch

from cai.constitution import ClassRule, Proposition, Rubric
from cai.errors import StoreError, TrainError
from cai.modeling.loading import load_model
from cai.modeling.lora import adapter_tensors, parameters_of, with_adapter
from cai.modeling.tokenization import load_renderer
from cai.records import Chat, Kind, Prompt, chat_of
from cai.reward.composite import RewardMix, combine
from cai.reward.penalties import format_faults
from cai.reward.preference_model import ADAPTER, HEAD_FILE, PreferenceModel
from cai.rubric import compile_rubric
from cai.train.preference import (
    Comparison,
    EarlyStopping,
    RewardConfig,
    batch_by_prompt,
    evaluate,
    pair_loss,
    split_by_prompt,
    train,
)

ASKED = chat_of(("user", "hello"))
REPLIES = ["yes", "no, and here is why: " + "because " * 12, "", "a", "what do you mean by that?"]
quiet = lambda done, total: None  # noqa: E731


def fresh(
    tiny: Path, seed: int = 0, layers: int | None = None, moved: bool = True
) -> PreferenceModel:
    """A preference model; its adapter `moved` away from its start, where it changes nothing."""
    torch.manual_seed(seed)
    model = PreferenceModel(
        with_adapter(load_model(str(tiny)), ADAPTER, 4, layers), load_renderer(tiny)
    )
    if moved:
        with torch.no_grad():
            for parameter in parameters_of(model.shared[0], ADAPTER):
                parameter.normal_(0, 0.1)
    return model


# ---- one text, one score ----


def test_the_score_is_read_at_the_token_that_ends_the_reply(tiny_model: Path) -> None:
    """Against the obvious way: one row alone, no padding, the last place. The end token is the pad token here, and it counts."""
    model = fresh(tiny_model)
    assert model.renderer.pad_id == model.renderer.stop_id
    for reply in REPLIES:
        row = model.rows(ASKED, reply)
        assert row[-1] == model.renderer.stop_id
        with torch.no_grad():
            hidden = model.shared[0](
                input_ids=torch.tensor([row]), output_hidden_states=True
            ).hidden_states[-1][0, -1]
            want = float(model.head(hidden))
        assert model.score([row]) == pytest.approx([want], abs=1e-5)


def test_training_and_scoring_see_the_same_number(tiny_model: Path) -> None:
    """`unnormalized_scores` in one padded batch, as in training; `score` in sorted batches of any size, with any neighbours; each row alone."""
    model = fresh(tiny_model)
    model.gain, model.bias = 2.0, -3.0
    rows = [model.rows(ASKED, reply) for reply in REPLIES]
    trained_on = model.unnormalized_scores(rows).tolist()
    want = [2 * value - 3 for value in trained_on]
    for batch_size in (1, 2, 16):
        assert model.score(rows, batch_size=batch_size) == pytest.approx(want, abs=1e-5)
    assert model.score(rows[::-1]) == pytest.approx(want[::-1], abs=1e-5)
    assert len({round(value, 3) for value in want}) == len(rows)


def test_normalised_scores_have_mean_0_and_variance_1(tiny_model: Path) -> None:
    """Twice in a row too: the second call starts from scores that the first one has already moved."""
    model = fresh(tiny_model)
    rows = [model.rows(ASKED, reply) for reply in REPLIES]
    order = sorted(range(len(rows)), key=model.score(rows).__getitem__)
    for _ in range(2):
        model.normalize(model.score(rows))
        scores = torch.tensor(model.score(rows), dtype=torch.float64)
        assert float(scores.mean()) == pytest.approx(0, abs=1e-5)
        assert float(scores.var(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert sorted(range(len(rows)), key=model.score(rows).__getitem__) == order


def test_normalise_by_hand_and_what_cannot_be(tiny_model: Path) -> None:
    """(1, 5): mean 3, deviation 2, so x -> x/2 - 3/2. Equal scores have no scale."""
    model = fresh(tiny_model)
    model.normalize([1.0, 5.0])
    assert (model.gain, model.bias) == (0.5, -1.5)
    with pytest.raises(StoreError, match="the same score"):
        model.normalize([2.0, 2.0])


@pytest.mark.parametrize("layers", [None, 1])
def test_saved_and_loaded_it_scores_the_same(
    tiny_model: Path, tmp_path: Path, layers: int | None
) -> None:
    model = fresh(tiny_model, layers=layers)
    rows = [model.rows(ASKED, reply) for reply in REPLIES]
    model.normalize(model.score(rows))
    model.save(tmp_path)
    host = with_adapter(
        load_model(str(tiny_model)), "policy", 2
    )  # as in PPO: beside a policy, on one base
    again = PreferenceModel.load(host, load_renderer(tiny_model), tmp_path)
    assert again.score(rows) == model.score(rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter.safetensors", "head.json"]


@pytest.mark.parametrize("file", ["adapter.safetensors", HEAD_FILE])
def test_a_torn_preference_model_is_refused_by_name(
    tiny_model: Path, tmp_path: Path, file: str
) -> None:
    fresh(tiny_model).save(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:10])
    with pytest.raises(StoreError, match=f"{tmp_path.name}: preference model: "):
        PreferenceModel.load(
            with_adapter(load_model(str(tiny_model)), "policy", 2),
            load_renderer(tiny_model),
            tmp_path,
        )


def test_a_preference_model_of_another_size_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """A head file that says another rank than the tensors have."""
    fresh(tiny_model).save(tmp_path)
    numbers = json.loads((tmp_path / HEAD_FILE).read_text())
    (tmp_path / HEAD_FILE).write_text(json.dumps(numbers | {"rank": 8}))
    with pytest.raises(StoreError, match="preference model"):
        PreferenceModel.load(
            with_adapter(load_model(str(tiny_model)), "policy", 2),
            load_renderer(tiny_model),
            tmp_path,
        )


# ---- training ----


def planted(model: PreferenceModel, count: int, p: float = 1.0) -> list[Comparison]:
    """Replies of z beat replies of a, whatever the prompt; each in both places."""
    made = []
    for i in range(count):
        asked = chat_of(("user", f"question {i}"))
        good, bad = model.rows(asked, "z" * (1 + i % 3)), model.rows(asked, "a" * (1 + i % 3))
        made.append(
            Comparison(f"p{i}", good, bad, p) if i % 2 else Comparison(f"p{i}", bad, good, 1 - p)
        )
    return made


def test_a_planted_preference_is_learnt(tiny_model: Path) -> None:
    """From about ln 2 to near nothing, on prompts that were not trained on too; the base keeps every bit."""
    model = fresh(tiny_model, moved=False)
    base = {
        k: p.detach().clone() for k, p in model.shared[0].named_parameters() if "lora_" not in k
    }
    comparisons = planted(model, 24)
    learn, held = comparisons[:16], comparisons[16:]
    steps: list[tuple[int, int]] = []
    config = RewardConfig(rank=4, learning_rate=1e-2, epochs=6, batch_size=4)
    loss = train(
        model, learn, config, seed=0, progress=lambda done, total: steps.append((done, total))
    )
    assert loss < 0.1
    told = evaluate(model, held)
    assert [m.agrees for m in told] == [1.0] * 8
    assert sum(m.log_loss for m in told) / 8 < 0.2
    assert steps == [(i + 1, 24) for i in range(24)]  # 16 pairs in fours, six times
    assert all(torch.equal(base[k], p) for k, p in model.shared[0].named_parameters() if k in base)


def test_training_is_the_same_twice(tiny_model: Path) -> None:
    config = RewardConfig(rank=4, learning_rate=1e-2, epochs=1, batch_size=4)
    made = []
    for seed in (0, 0, 1):
        model = fresh(tiny_model, moved=False)
        made.append(
            (
                train(model, planted(model, 16), config, seed=seed, progress=quiet),
                model.score([model.rows(ASKED, "zz")]),
            )
        )
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_an_undecided_label_moves_equal_scores_nowhere(tiny_model: Path) -> None:
    """The same row on both sides at p = 1/2: the gradient is sigma(0) - 1/2 = 0, so nothing changes; at p = 1 something does."""
    for p, moves in ((0.5, False), (1.0, True)):
        model = fresh(tiny_model)
        row, other = model.rows(ASKED, "same"), model.rows(ASKED, "else")
        before = {k: v.clone() for k, v in adapter_tensors(model.shared[0], ADAPTER).items()}
        comparison = Comparison("p", row, other if moves else row, p)
        train(model, [comparison], RewardConfig(rank=4, batch_size=1), seed=0, progress=quiet)
        after = adapter_tensors(model.shared[0], ADAPTER)
        assert (
            all(torch.allclose(before[k], v, atol=1e-6, rtol=0) for k, v in after.items())
            is not moves
        )


def test_soft_labels_are_fitted_as_probabilities(tiny_model: Path) -> None:
    """Trained on p = .8, the margin tends to ln(.8/.2) = 1.386, not to infinity."""
    model = fresh(tiny_model, moved=False)
    row, other = model.rows(ASKED, "z"), model.rows(ASKED, "a")
    comparisons = [Comparison("p", row, other, 0.8)] * 4
    train(
        model,
        comparisons,
        RewardConfig(rank=4, learning_rate=3e-3, epochs=80, batch_size=4),
        seed=0,
        progress=quiet,
    )
    first, second = model.score([row, other])
    assert first - second == pytest.approx(math.log(4), abs=0.05)


def ranked(model: PreferenceModel, replies: int) -> list[Comparison]:
    """All pairs of `replies` replies to one prompt."""
    rows = [model.rows(ASKED, "z" * (i + 1)) for i in range(replies)]
    return [
        Comparison("p", rows[i], rows[j], 0.3 + 0.1 * j)
        for i in range(replies)
        for j in range(i + 1, replies)
    ]


def test_a_group_has_the_gradient_of_the_pairwise_loop(tiny_model: Path) -> None:
    """Six pairs of four replies: four rows go through the model instead of twelve, and every gradient is the same."""
    model = fresh(tiny_model)
    pairs, seen = ranked(model, 4), []
    forward = model.unnormalized_scores
    model.unnormalized_scores = lambda rows: (seen.append(len(rows)), forward(rows))[1]  # type: ignore[method-assign]

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad()
        own = [*model.head.parameters(), *parameters_of(model.shared[0], ADAPTER)]
        return list(torch.autograd.grad(loss, own))

    together = gradients(pair_loss(model, pairs))
    assert seen == [4]
    one_by_one = gradients(torch.stack([pair_loss(model, [c]) for c in pairs]).mean())
    for a, b in zip(together, one_by_one, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_a_prompts_pairs_are_in_one_step() -> None:
    """Prompts of 3, 1, 1 and 2 pairs in steps of 3: none is cut, and a step may be larger than asked for."""
    counts = {"a": 3, "b": 1, "c": 1, "d": 2}
    comparisons = [
        Comparison(name, [0] * (i + 1), [0], 1.0)
        for i, (name, n) in enumerate(counts.items())
        for _ in range(n)
    ]
    batches = [
        [comparisons[i].prompt for i in places] for places in batch_by_prompt(comparisons, 3)
    ]
    assert batches == [["a"] * 3, ["b", "c"], ["d", "d"]]
    assert [len(places) for places in batch_by_prompt(comparisons, 1)] == [3, 1, 1, 2]


def test_the_best_epoch_is_kept() -> None:
    """Losses 3, 2, 4, 5 with weights 0, 1, 2, 3: the age of the best is 0, 0, 1, 2, and its weight comes back."""
    weight = torch.nn.Parameter(torch.zeros(1))
    best = EarlyStopping([weight])
    ages = []
    for epoch, loss in enumerate([3.0, 2.0, 4.0, 5.0]):
        weight.data.fill_(epoch)
        ages.append(best.age(epoch, loss))
    assert ages == [0, 0, 1, 2]
    best.restore()
    assert float(weight.detach()) == 1
    weight.data.fill_(7)
    EarlyStopping([weight]).restore()
    assert float(weight.detach()) == 7


def test_training_stops_where_held_out_pairs_say(tiny_model: Path) -> None:
    """Pairs that decide have the opposite labels, so that each epoch makes their loss worse: with a patience of 2, three of the
    twelve epochs are run, and the first one's weights are kept."""
    model = fresh(tiny_model)
    pairs = [
        Comparison(str(i), model.rows(ASKED, "a" * (i + 1)), model.rows(ASKED, "b" * (i + 1)), 1.0)
        for i in range(4)
    ]
    against = [Comparison(c.prompt, c.first, c.second, 0.0) for c in pairs]
    seen: list[int] = []
    config = RewardConfig(epochs=12, batch_size=4, learning_rate=1e-2, patience=2)
    train(
        model,
        pairs,
        config,
        seed=0,
        progress=lambda done, total: seen.append(done),
        deciding=against,
    )
    assert seen == [1, 2, 3]
    hasty = fresh(tiny_model)
    train(
        hasty,
        pairs,
        config.model_copy(update={"patience": 1}),
        seed=0,
        progress=quiet,
        deciding=against,
    )
    assert evaluate(hasty, against) == evaluate(model, against), (
        "two epochs or three: the first one's weights"
    )
    first = fresh(tiny_model)
    train(
        first,
        pairs,
        config.model_copy(update={"patience": None}),
        seed=0,
        progress=quiet,
        deciding=against,
    )
    assert evaluate(first, against) != evaluate(model, against)


def test_hard_labels_are_an_ablation(tiny_model: Path) -> None:
    """p = 0.8 counts as 1, p = 0.3 as 0, one half stays: ln(1 + e^-m), ln(1 + e^m), and the soft loss at one half."""
    model = fresh(tiny_model)
    row, other = model.rows(ASKED, "z"), model.rows(ASKED, "a")
    margin = float((model.unnormalized_scores([row]) - model.unnormalized_scores([other])).detach())

    def loss(pairs: list[Comparison], labels: Literal["soft", "hard"]) -> float:
        return float(pair_loss(model, pairs, labels).detach())

    for p, want in ((0.8, math.log1p(math.exp(-margin))), (0.3, math.log1p(math.exp(margin)))):
        assert loss([Comparison("p", row, other, p)], "hard") == pytest.approx(want, abs=1e-5)
    even = [Comparison("p", row, other, 0.5)]
    assert loss(even, "hard") == pytest.approx(loss(even, "soft"))


def test_nothing_to_train_on(tiny_model: Path) -> None:
    with pytest.raises(TrainError, match="no labelled pair"):
        train(fresh(tiny_model), [], RewardConfig(), seed=0, progress=quiet)


def test_only_the_last_blocks_learn(tiny_model: Path) -> None:
    model = fresh(tiny_model, layers=1)
    names = [key for key, p in model.shared[0].named_parameters() if p.requires_grad]
    assert len(names) == 14  # seven matrices of the last of two blocks, A and B each
    assert all(".layers.1." in key for key in names)
    assert len(parameters_of(fresh(tiny_model).shared[0], ADAPTER)) == 28


def test_split_keeps_a_prompt_whole() -> None:
    """Ten prompts of three pairs: a fifth is two prompts, six pairs. Which ones depends on the seed, not on the order."""
    comparisons = [Comparison(f"p{i % 10}", [i], [i], 1.0) for i in range(30)]
    learn, held = split_by_prompt(comparisons, 0.2, seed=0)
    assert (len(learn), len(held)) == (24, 6)
    assert not {c.prompt for c in learn} & {c.prompt for c in held}
    assert {c.prompt for c in split_by_prompt(comparisons[::-1], 0.2, seed=0)[1]} == {
        c.prompt for c in held
    }
    assert {
        frozenset(c.prompt for c in split_by_prompt(comparisons, 0.2, seed)[1]) for seed in range(5)
    } != {frozenset(c.prompt for c in held)}
    assert split_by_prompt(comparisons, 0.0, seed=0) == (comparisons, [])


def test_measure(tiny_model: Path) -> None:
    """A label of exactly 1/2 has no side to agree with. The loss is that of unnormalised scores: ln(1 + e^-m) at p = 1."""
    model = fresh(tiny_model)
    row, other = model.rows(ASKED, "z"), model.rows(ASKED, "a")
    high, low = (row, other) if model.score([row])[0] > model.score([other])[0] else (other, row)
    margin = model.score([high])[0] - model.score([low])[0]
    model.normalize([1.0, 5.0])
    told = evaluate(
        model,
        [Comparison("p", high, low, p) for p in (1.0, 0.51, 0.5, 0.49)]
        + [Comparison("q", low, high, 1.0)],
    )
    assert [m.agrees for m in told] == [1.0, 1.0, None, 0.0, 0.0]
    assert [m.prompt for m in told] == ["p"] * 4 + ["q"]
    assert told[0].log_loss == pytest.approx(math.log(1 + math.exp(-margin)), abs=1e-4)
    assert told[4].log_loss == pytest.approx(math.log(1 + math.exp(margin)), abs=1e-4)
    assert evaluate(model, []) == []


# ---- the parts of a reward ----


def rubric() -> Rubric:
    """Saying no is right for disallowed prompts (3) and nothing is said of sensitive ones."""
    return Rubric(
        behaviours={"disallowed": "refuse"},
        propositions={"declines": Proposition(question="Does it decline?", patterns=(r"\bno\b",))},
        classes={
            "refuse": (
                ClassRule(name="ideal", when="declines", style="desired_refusal", correct=True),
                ClassRule(
                    name="helps", when="not declines", style="disallowed_content", correct=False
                ),
            )
        },
        degrees={"full_refusal": "declines", "full_compliance": "not declines"},
        weights={"refuse": {"ideal": 3.0, "helps": -1.0}},
    )


def asked(kind: Kind | None) -> Prompt:
    chat: Chat = ASKED
    return Prompt(chat=chat, kind=kind)


def test_parts_by_name(tiny_model: Path) -> None:
    """Weights multiply; no kind: the rubric has no say (0); a kind it is silent about: it cannot tell (None)."""
    model, compiled = fresh(tiny_model), compile_rubric(rubric())
    prompts = [asked("disallowed"), asked("disallowed"), asked(None), asked("sensitive")]
    replies = ["no", "sure", "no", "no"]
    table = combine(prompts, replies, model, compiled, RewardMix(pm=0.5, rubric=2.0))
    assert table["rubric"] == [6.0, -2.0, 0.0, None]
    assert table["pm"] == pytest.approx(
        [0.5 * s for s in model.score([model.rows(ASKED, r) for r in replies])]
    )
    assert list(table) == ["pm", "rubric"]


def test_parts_of_no_weight_are_not_computed(tiny_model: Path) -> None:
    prompts, compiled = [asked("disallowed")], compile_rubric(rubric())
    assert combine(prompts, ["no"], None, compiled, RewardMix()) == {"rubric": [3.0]}
    assert combine(prompts, ["no"], None, None, RewardMix()) == {}
    assert list(combine(prompts, ["no"], fresh(tiny_model), compiled, RewardMix(rubric=0))) == [
        "pm"
    ]


def test_length_and_form_as_parts() -> None:
    """350 words with 150 free: two hundred too many. An open fence and a played turn: two faults."""
    prompt = Prompt(chat=chat_of(("user", "Hi")), kind=None)
    replies = ["word " * 350, "```\ncode\nUser: and now?", "fine"]
    table = combine(
        [prompt] * 3, replies, None, None, RewardMix(pm=0, rubric=0, length=0.5, format=0.25)
    )
    assert table == {"length": [-1.0, 0.0, 0.0], "format": [0.0, -0.5, 0.0]}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A plain answer with `code` and ```\nblock\n``` in it.", []),
        ("text <|im_end|> more", ["control tokens"]),
        ("[INST] go", ["control tokens"]),
        ("Fine.\n\nHuman: and now?", ["another turn"]),
        ("The user: he said so. A<b and c|d>e", []),
    ],
)
def test_faults_of_form(reply: str, expected: list[str]) -> None:
    assert format_faults(reply) == expected
