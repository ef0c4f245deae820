"""Training of the preference model: soft and hard labels, batches by prompt, early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from interruptions import Killed, killed_at, quiet
from preference_toys import HELLO, untrained_model

from cai.errors import StoreError, TrainError
from cai.modeling.lora import adapter_parameters, adapter_tensors
from cai.pipeline.preference_model import fresh_model
from cai.records import chat_of
from cai.reward.preference_model import ADAPTER, PreferenceModel
from cai.train.agreement import evaluate
from cai.train.comparison import Comparison
from cai.train.early_stopping import EarlyStopping
from cai.train.pair_loss import pair_loss
from cai.train.preference import RewardConfig, batch_by_prompt, split_by_prompt, train


def planted(model: PreferenceModel, count: int, p: float = 1.0) -> list[Comparison]:
    """Replies of z beat replies of a for every prompt, as first and as second reply in turn."""
    comparisons = []
    for i in range(count):
        chat = chat_of(("user", f"question {i}"))
        good = model.rows(chat, "z" * (1 + i % 3))
        bad = model.rows(chat, "a" * (1 + i % 3))
        comparisons.append(
            Comparison(f"p{i}", good, bad, p) if i % 2 else Comparison(f"p{i}", bad, good, 1 - p)
        )
    return comparisons


def test_a_planted_preference_is_learnt(tiny_model: Path) -> None:
    """The loss falls from ln 2 to near 0, on held-out prompts too; the base does not change."""
    model = untrained_model(tiny_model, random_adapter=False)
    base = {
        k: p.detach().clone() for k, p in model.shared[0].named_parameters() if "lora_" not in k
    }
    comparisons = planted(model, 24)
    training, held_out = comparisons[:16], comparisons[16:]
    steps: list[tuple[int, int]] = []
    config = RewardConfig(lora_rank=4, learning_rate=1e-2, epochs=6, batch_size=4)
    loss = train(
        model, training, config, seed=0, progress=lambda done, total: steps.append((done, total))
    )
    assert loss < 0.1
    agreements = evaluate(model, held_out)
    assert [m.agrees for m in agreements] == [1.0] * 8
    assert sum(m.log_loss for m in agreements) / 8 < 0.2
    assert steps == [(i + 1, 24) for i in range(24)]  # 16 pairs in fours, six times
    assert all(torch.equal(base[k], p) for k, p in model.shared[0].named_parameters() if k in base)


def test_training_is_the_same_twice(tiny_model: Path) -> None:
    config = RewardConfig(lora_rank=4, learning_rate=1e-2, epochs=1, batch_size=4)
    results = []
    for seed in (0, 0, 1):
        model = untrained_model(tiny_model, random_adapter=False)
        results.append(
            (
                train(model, planted(model, 16), config, seed=seed, progress=quiet),
                model.score([model.rows(HELLO, "zz")]),
            )
        )
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_an_undecided_label_moves_equal_scores_nowhere(tiny_model: Path) -> None:
    """The same row on both sides at p = 1/2: the gradient is sigma(0) - 1/2 = 0.

    Nothing changes then; at p = 1 something does.
    """
    for p, moves in ((0.5, False), (1.0, True)):
        model = untrained_model(tiny_model)
        row, other = model.rows(HELLO, "same"), model.rows(HELLO, "else")
        before = {k: v.clone() for k, v in adapter_tensors(model.shared[0], ADAPTER).items()}
        comparison = Comparison("p", row, other if moves else row, p)
        train(model, [comparison], RewardConfig(lora_rank=4, batch_size=1), seed=0, progress=quiet)
        after = adapter_tensors(model.shared[0], ADAPTER)
        assert (
            all(torch.allclose(before[k], v, atol=1e-6, rtol=0) for k, v in after.items())
            is not moves
        )


def test_soft_labels_are_fitted_as_probabilities(tiny_model: Path) -> None:
    """Trained on p = .8, the margin tends to ln(.8/.2) = 1.386, not to infinity."""
    model = untrained_model(tiny_model, random_adapter=False)
    row, other = model.rows(HELLO, "z"), model.rows(HELLO, "a")
    comparisons = [Comparison("p", row, other, 0.8)] * 4
    train(
        model,
        comparisons,
        RewardConfig(lora_rank=4, learning_rate=3e-3, epochs=80, batch_size=4),
        seed=0,
        progress=quiet,
    )
    first, second = model.score([row, other])
    assert first - second == pytest.approx(math.log(4), abs=0.05)


def ranked(model: PreferenceModel, replies: int) -> list[Comparison]:
    """All pairs of `replies` replies to one prompt."""
    rows = [model.rows(HELLO, "z" * (i + 1)) for i in range(replies)]
    return [
        Comparison("p", rows[i], rows[j], 0.3 + 0.1 * j)
        for i in range(replies)
        for j in range(i + 1, replies)
    ]


def test_a_group_has_the_gradient_of_the_pairwise_loop(tiny_model: Path) -> None:
    """Six pairs of four replies: four rows go through the model, not twelve; equal gradients."""
    model = untrained_model(tiny_model)
    pairs = ranked(model, 4)
    row_counts: list[int] = []
    forward = model.unnormalized_scores

    def counting_forward(rows: Sequence[Sequence[int]]) -> torch.Tensor:
        row_counts.append(len(rows))
        return forward(rows)

    model.unnormalized_scores = counting_forward  # type: ignore[method-assign]

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad()
        parameters = [*model.head.parameters(), *adapter_parameters(model.shared[0], ADAPTER)]
        return list(torch.autograd.grad(loss, parameters))

    batched = gradients(pair_loss(model, pairs))
    assert row_counts == [4]
    one_by_one = gradients(torch.stack([pair_loss(model, [c]) for c in pairs]).mean())
    for a, b in zip(batched, one_by_one, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_each_prompt_weighs_the_same(tiny_model: Path) -> None:
    """Three pairs of one prompt and one of another: mean over pairs, then over prompts.

    Scores 0, 1, 3 and labels 1: margins -1, -3, -2 and, for the other prompt, 2. With s(x) =
    ln(1 + e^-x): s(-1) = 1.313262, s(-3) = 3.048587, s(-2) = 2.126928, s(2) = 0.126928. The first
    prompt's mean is 2.162926, the loss (2.162926 + 0.126928) / 2 = 1.144927; over the four pairs it
    would be 1.653926.
    """
    model = untrained_model(tiny_model)
    scores = {(1,): 0.0, (2,): 1.0, (3,): 3.0, (4,): 2.0}
    model.unnormalized_scores = lambda rows: torch.tensor(  # type: ignore[method-assign]
        [scores[tuple(row)] for row in rows]
    )
    batch = [
        Comparison("three", [1], [2], 1.0),
        Comparison("three", [1], [3], 1.0),
        Comparison("one", [4], [1], 1.0),
        Comparison("three", [2], [3], 1.0),
    ]
    assert float(pair_loss(model, batch)) == pytest.approx(1.144927, abs=1e-6)
    singles = [replace(c, prompt=str(i)) for i, c in enumerate(batch)]
    assert float(pair_loss(model, singles)) == pytest.approx(1.653926, abs=1e-6)


def test_a_prompts_pairs_are_in_one_step() -> None:
    """Prompts of 3, 1, 1 and 2 pairs in steps of 3: none is split, and a step may be larger."""
    counts = {"a": 3, "b": 1, "c": 1, "d": 2}
    comparisons = [
        Comparison(name, [0] * (i + 1), [0], 1.0)
        for i, (name, n) in enumerate(counts.items())
        for _ in range(n)
    ]
    batches = [
        [comparisons[i].prompt for i in indices] for indices in batch_by_prompt(comparisons, 3)
    ]
    assert batches == [["a"] * 3, ["b", "c"], ["d", "d"]]
    assert [len(indices) for indices in batch_by_prompt(comparisons, 1)] == [3, 1, 1, 2]


def test_a_prompt_of_very_many_pairs_has_several_steps() -> None:
    """300 pairs of one prompt in steps of 64, and of 100 where a step is that large."""
    comparisons = [Comparison("a", [i], [0], 1.0) for i in range(300)]
    batches = batch_by_prompt(comparisons, 8)
    assert sorted(map(len, batches)) == [44, 64, 64, 64, 64]
    assert sorted(i for batch in batches for i in batch) == list(range(300))
    assert list(map(len, batch_by_prompt(comparisons, 100))) == [100] * 3


def test_equal_replies_and_equal_scores_are_no_disagreement(tiny_model: Path) -> None:
    model = untrained_model(tiny_model)
    row, other = model.rows(HELLO, "a"), model.rows(HELLO, "b")
    (same,) = evaluate(model, [Comparison("p", row, row, 0.2)])
    assert same.agrees is None
    torch.nn.init.zeros_(model.head.weight)
    agreements = evaluate(model, [Comparison("p", row, other, p) for p in (0.2, 0.5, 0.9)])
    assert [a.agrees for a in agreements] == [0.5, None, 0.5]


def test_the_best_epoch_is_kept() -> None:
    """Losses 3, 2, 4, 5 with weights 0 to 3: the best one's age is 0, 0, 1, 2; it is restored."""
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
    """The deciding pairs have the opposite labels, so that each epoch increases their loss.

    With a patience of 2, three of the twelve epochs are run; the first one's weights are restored.
    """
    model = untrained_model(tiny_model)
    pairs = [
        Comparison(str(i), model.rows(HELLO, "a" * (i + 1)), model.rows(HELLO, "b" * (i + 1)), 1.0)
        for i in range(4)
    ]
    against = [Comparison(c.prompt, c.first, c.second, 0.0) for c in pairs]
    steps: list[int] = []
    config = RewardConfig(epochs=12, batch_size=4, learning_rate=1e-2, patience=2)
    train(
        model,
        pairs,
        config,
        seed=0,
        progress=lambda done, total: steps.append(done),
        deciding=against,
    )
    assert steps == [1, 2, 3]
    impatient = untrained_model(tiny_model)
    train(
        impatient,
        pairs,
        config.model_copy(update={"patience": 1}),
        seed=0,
        progress=quiet,
        deciding=against,
    )
    assert evaluate(impatient, against) == evaluate(model, against), (
        "the first epoch's weights after two epochs or three"
    )
    without_patience = untrained_model(tiny_model)
    train(
        without_patience,
        pairs,
        config.model_copy(update={"patience": None}),
        seed=0,
        progress=quiet,
        deciding=against,
    )
    assert evaluate(without_patience, against) != evaluate(model, against)


def test_hard_labels_are_an_ablation(tiny_model: Path) -> None:
    """p = 0.8 is 1, p = 0.3 is 0, 1/2 stays: ln(1 + e^-m), ln(1 + e^m), and the soft loss."""
    model = untrained_model(tiny_model)
    row, other = model.rows(HELLO, "z"), model.rows(HELLO, "a")
    margin = float((model.unnormalized_scores([row]) - model.unnormalized_scores([other])).detach())

    def loss(pairs: list[Comparison], labels: Literal["soft", "hard"]) -> float:
        return float(pair_loss(model, pairs, labels).detach())

    for p, expected in ((0.8, math.log1p(math.exp(-margin))), (0.3, math.log1p(math.exp(margin)))):
        assert loss([Comparison("p", row, other, p)], "hard") == pytest.approx(expected, abs=1e-5)
    even = [Comparison("p", row, other, 0.5)]
    assert loss(even, "hard") == pytest.approx(loss(even, "soft"))


def test_nothing_to_train_on(tiny_model: Path) -> None:
    with pytest.raises(TrainError, match="no labelled pair"):
        train(untrained_model(tiny_model), [], RewardConfig(), seed=0, progress=quiet)


def test_only_the_last_blocks_learn(tiny_model: Path) -> None:
    model = untrained_model(tiny_model, layers=1)
    names = [key for key, p in model.shared[0].named_parameters() if p.requires_grad]
    assert len(names) == 14  # seven matrices of the last of two blocks, A and B each
    assert all(".layers.1." in key for key in names)
    assert len(adapter_parameters(untrained_model(tiny_model).shared[0], ADAPTER)) == 28


def test_all_pairs_of_a_prompt_are_on_one_side() -> None:
    """Ten prompts of three pairs: a fifth is two prompts. The seed decides which, not the order."""
    comparisons = [Comparison(f"p{i % 10}", [i], [i], 1.0) for i in range(30)]
    training, held_out = split_by_prompt(comparisons, 0.2, seed=0)
    assert (len(training), len(held_out)) == (24, 6)
    assert not {c.prompt for c in training} & {c.prompt for c in held_out}
    assert {c.prompt for c in split_by_prompt(comparisons[::-1], 0.2, seed=0)[1]} == {
        c.prompt for c in held_out
    }
    assert {
        frozenset(c.prompt for c in split_by_prompt(comparisons, 0.2, seed)[1]) for seed in range(5)
    } != {frozenset(c.prompt for c in held_out)}
    assert split_by_prompt(comparisons, 0.0, seed=0) == (comparisons, [])


def test_measure(tiny_model: Path) -> None:
    """At a label of 1/2 `agrees` is None. Loss of unnormalised scores: ln(1 + e^-m) at p = 1."""
    model = untrained_model(tiny_model)
    row, other = model.rows(HELLO, "z"), model.rows(HELLO, "a")
    high, low = (row, other) if model.score([row])[0] > model.score([other])[0] else (other, row)
    margin = model.score([high])[0] - model.score([low])[0]
    model.normalize([1.0, 5.0])
    agreements = evaluate(
        model,
        [Comparison("p", high, low, p) for p in (1.0, 0.51, 0.5, 0.49)]
        + [Comparison("q", low, high, 1.0)],
    )
    assert [m.agrees for m in agreements] == [1.0, 1.0, None, 0.0, 0.0]
    assert [m.prompt for m in agreements] == ["p"] * 4 + ["q"]
    assert agreements[0].log_loss == pytest.approx(math.log(1 + math.exp(-margin)), abs=1e-4)
    assert agreements[4].log_loss == pytest.approx(math.log(1 + math.exp(margin)), abs=1e-4)
    assert evaluate(model, []) == []


def test_blocks_that_do_not_learn_are_computed_once_and_change_nothing(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without the cache of frozen blocks: fewer forward passes, the same head."""
    config = RewardConfig(
        lora_rank=4, num_trainable_layers=1, epochs=3, batch_size=4, learning_rate=1e-2
    )
    heads = []
    for max_bytes in (1 << 30, 0):
        monkeypatch.setattr("cai.train.preference.MAX_CACHE_BYTES", max_bytes)
        model = fresh_model(str(tiny_model), config, 0)
        calls: list[int] = []
        first_mlp = model.shared[0].get_base_model().model.layers[0].mlp
        first_mlp.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        train(model, planted(model, 8), config, seed=0, progress=quiet)
        heads.append(model.head.weight.detach().clone())
        assert len(calls) == (2 if max_bytes else 6)  # two batches, three epochs
    assert torch.equal(*heads)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_killed_training_equals_an_uninterrupted_one(
    tiny_model: Path, tmp_path: Path, mode: Literal["lora", "full"]
) -> None:
    """Four steps an epoch, a checkpoint after every third: killed in the sixth of eight, it goes on
    with the fourth, and has the best weights of both parts.
    """
    config = RewardConfig(
        mode=mode, lora_rank=4, epochs=2, batch_size=2, learning_rate=1e-3, patience=1, save_every=3
    )

    def fitted(
        progress: Callable[[int, int], None], checkpoints: Path | None
    ) -> tuple[float, list[torch.Tensor]]:
        model = fresh_model(str(tiny_model), config, 0)
        pairs = planted(model, 10)
        loss = train(
            model,
            pairs[:8],
            config,
            seed=0,
            progress=progress,
            deciding=pairs[8:],
            checkpoints=checkpoints,
        )
        return loss, [p.detach() for p in (*model.head.parameters(), *model.shared[0].parameters())]

    loss, weights = fitted(quiet, None)
    with pytest.raises(Killed):
        fitted(killed_at(5, quiet), tmp_path)
    steps: list[int] = []
    resumed_loss, resumed = fitted(lambda done, total: steps.append(done), tmp_path)
    assert steps == [4, 5, 6, 7, 8]
    assert resumed_loss == loss
    assert all(map(torch.equal, weights, resumed))
    config = config.model_copy(update={"batch_size": 4})
    with pytest.raises(StoreError, match="other settings"):
        fitted(quiet, tmp_path)


def test_every_weight_of_a_model_can_learn(tiny_model: Path, tmp_path: Path) -> None:
    """`mode: full`: the saved folder has the model, and scores as the trained one does; of two
    blocks the last learns alone with `num_trainable_layers: 1`.
    """
    config = RewardConfig(
        mode="full", epochs=6, batch_size=4, learning_rate=1e-2, num_trainable_layers=1
    )
    model = fresh_model(str(tiny_model), config, 0)
    before = {k: p.detach().clone() for k, p in model.plain_base.named_parameters()}
    assert train(model, planted(model, 16), config, seed=0, progress=quiet) < 0.2
    changed = [k for k, p in model.plain_base.named_parameters() if not torch.equal(before[k], p)]
    assert changed
    assert all(".layers.1." in key for key in changed)
    model.save(tmp_path)
    rows = [model.rows(HELLO, "zz"), model.rows(HELLO, "aa")]
    assert PreferenceModel.load_full(tmp_path).score(rows) == pytest.approx(model.score(rows))
