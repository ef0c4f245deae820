"""Memory runs out: batches are halved, and what comes out is what more memory would have given."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from interruptions import quiet
from memory_faults import CPU, GPU, run_out_above
from ppo_toys import CONFIG, PROMPTS, copied_weights, fresh_trainer, train, with_settings
from preference_toys import HELLO, REPLIES, untrained_model

from cai.errors import BackendError, TrainError
from cai.lm.local import load_local
from cai.modeling.frozen_cache import FrozenCache
from cai.modeling.loading import load_model
from cai.modeling.out_of_memory import BatchLimit, is_out_of_memory, with_smaller_batches
from cai.modeling.tokenization import load_renderer
from cai.records import chat_of
from cai.train.comparison import Comparison
from cai.train.pair_loss import PairGradients
from cai.train.ppo.config import RolloutConfig
from cai.train.ppo.rollout import rollout_requests, sample_rollouts
from cai.train.sft import Example, SFTConfig, sft

Where = Literal["forward", "backward"]


@pytest.mark.parametrize(
    "error", [GPU, CPU, MemoryError(), RuntimeError("CUDA error: out of memory")]
)
def test_what_torch_raises_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_other_errors_pass() -> None:
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError, match="shapes"):
        BatchLimit("x").run([1], lambda _: 1, lambda _: _raise(RuntimeError("shapes")))


def _raise(error: Exception) -> Any:
    raise error


def test_batches_shrink_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Room for 40 tokens, rows of 10: 8 rows are 80 tokens, and half of that fits. The next call
    begins with that; a long row goes alone, and one that does not fit alone is an error of a line.
    """
    limit, sizes = BatchLimit("a model"), []

    def work(rows: Any) -> list[int]:
        sizes.append(len(rows))
        if len(rows) * max(rows) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [10 * row for row in rows]

    assert limit.run([10] * 8, int, work) == [100] * 8
    assert sizes == [8, 4, 4]
    assert limit.run([5, 10, 40, 10], int, work) == [50, 100, 400, 100]
    assert sizes[3:] == [2, 1, 1]
    assert capsys.readouterr().err.splitlines() == [
        "cai: a model: out of memory with 8 rows at once: goes on with 4"
    ]
    with pytest.raises(BackendError, match="out of memory with a single row of 41 tok"):
        limit.run([41], int, work)


def test_sizes_are_halved_upwards() -> None:
    """5, 3, 2: half a row is a row."""
    sizes = []

    def work(size: int) -> str:
        sizes.append(size)
        return "done" if size < 3 else _raise(GPU)

    assert with_smaller_batches("x", 5, work, TrainError) == ("done", 2)
    assert sizes == [5, 3, 2]


# ---- sampling and scoring ----


def answers(lm: Any) -> tuple[list[Any], list[Any]]:
    """Samples of eleven prompts of other lengths, and options of them."""
    chats = [chat_of(("user", "say a word " + "again " * i)) for i in range(11)]

    async def work() -> Any:
        samples = [
            lm.sample(chat, max_tokens=9, temperature=0.7 * (i % 3), seed=i, stop=("q",))
            for i, chat in enumerate(chats)
        ]
        sampled = await asyncio.gather(*samples)
        options = [lm.choice_logprobs(chat, ("yes", "no")) for chat in chats]
        return sampled, await asyncio.gather(*options)

    return asyncio.run(work())  # type: ignore[no-any-return]


@pytest.mark.parametrize("error", [GPU, CPU])
def test_a_local_model_answers_in_smaller_batches(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    samples, options = answers(load_local(str(tiny_model)))
    lm = load_local(str(tiny_model))
    failed = run_out_above(monkeypatch, 3, error)
    few_samples, few_options = answers(lm)
    assert failed
    assert few_samples == samples
    for few, many in zip(few_options, options, strict=True):
        assert few == pytest.approx(many, abs=1e-4)


def test_a_prompt_that_does_not_fit_is_one_line(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load_local(str(tiny_model))
    run_out_above(monkeypatch, 0)
    with pytest.raises(BackendError, match="out of memory with a single row of") as caught:
        answers(lm)
    assert "\n" not in str(caught.value)


def test_scores_and_responses_do_not_depend_on_memory(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, model = untrained_model(tiny_model), load_model(str(tiny_model))
    rows = [judge.rows(HELLO, reply) for reply in REPLIES]
    scores = judge.score(rows)
    requests = rollout_requests(PROMPTS, 2, 0, 0)
    config = RolloutConfig(max_new_tokens=8)
    rollouts = sample_rollouts(model, load_renderer(tiny_model), requests, config)
    failed = run_out_above(monkeypatch, 2)
    assert judge.score(rows) == pytest.approx(scores, abs=1e-5)
    again = sample_rollouts(model, load_renderer(tiny_model), requests, config)
    assert [r.response_ids for r in again] == [r.response_ids for r in rollouts]
    assert len(failed) >= 2


# ---- training ----


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_gradients_of_pairs(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, where: Where
) -> None:
    """Three pairs of one prompt and two others: the weights of the batch hold in its parts."""
    model = untrained_model(tiny_model)
    rows = [model.rows(HELLO, reply) for reply in REPLIES]
    batch = [
        Comparison("three", rows[0], rows[1], 0.9),
        Comparison("three", rows[0], rows[2], 0.2),
        Comparison("one", rows[3], rows[4], 0.6),
        Comparison("three", rows[1], rows[2], 0.7),
        Comparison("two", rows[4], rows[0], 0.4),
    ]
    optimizer = torch.optim.SGD([p for p in model.shared[0].parameters() if p.requires_grad])
    optimizer.add_param_group({"params": list(model.head.parameters())})

    def gradients() -> tuple[float, list[torch.Tensor]]:
        loss = PairGradients(model, optimizer, "soft").accumulate(batch, FrozenCache([]))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return loss, [p.grad.clone() for p in parameters if p.grad is not None]

    loss, want = gradients()
    failed = run_out_above(monkeypatch, 4, where=where)
    few_loss, got = gradients()
    assert failed
    assert few_loss == pytest.approx(loss, abs=1e-6)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    run_out_above(monkeypatch, 1, where=where)
    with pytest.raises(TrainError, match="reward: pairs: out of memory with a single row"):
        gradients()


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_ppo_learns_the_same(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Where
) -> None:
    """Micro-batches of all eight responses, then of as many as fit: metrics and weights are those
    of more memory, up to rounding.
    """
    config = with_settings(CONFIG, num_minibatches=1)
    enough, little = fresh_trainer(tiny_model, config), fresh_trainer(tiny_model, config)
    history = train(enough, tmp_path / "enough")
    failed = run_out_above(monkeypatch, 2, where=where)
    few_history = train(little, tmp_path / "little")
    assert failed
    assert little.learner.micro_batch_size <= 2
    for few, many in zip(few_history, history, strict=True):
        for name in ("policy_loss", "value_loss", "grad_norm", "kl", "reward"):
            assert few[name] == pytest.approx(many[name], abs=2e-4), name
    weights = copied_weights(enough.actor.module)
    for name, tensor in copied_weights(little.actor.module).items():
        torch.testing.assert_close(tensor, weights[name], atol=5e-4, rtol=1e-3)


def test_ppo_without_room_for_a_response(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = fresh_trainer(tiny_model)
    run_out_above(monkeypatch, 0, where="backward")
    with pytest.raises(TrainError, match="ppo: out of memory with a single row"):
        train(trainer, tmp_path / "none")


def test_sharded_weights_are_not_tried_again(tiny_model: Path) -> None:
    """All processes have to make the same passes: the setting is to be lowered."""
    trainer = fresh_trainer(tiny_model)
    trainer.actor.sharded = True
    with pytest.raises(TrainError, match=r"lower ppo\.optimization\.micro_batch_size"):
        trainer.learner.in_micro_batches(lambda size: _raise(GPU))


@pytest.mark.filterwarnings("ignore")  # the trainer and its data library warn about each other
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_fine_tuning_learns_the_same(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Where
) -> None:
    """The probe at load has two rows: two fit, and the batch of five does not."""
    examples = [Example(chat_of(("user", "hello " * i)), "well, " * (i + 1)) for i in range(5)]
    config = SFTConfig(mode="full", epochs=2, batch_size=5, learning_rate=1e-3)
    first = sft(str(tiny_model), examples, config, tmp_path / "enough", seed=0, progress=quiet)
    failed = run_out_above(monkeypatch, 2, where=where)
    second = sft(str(tiny_model), examples, config, tmp_path / "little", seed=0, progress=quiet)
    assert failed == [5, 3]
    assert second["loss"] == pytest.approx(first["loss"], abs=1e-5)
    weights = copied_weights(load_model(str(tmp_path / "enough")))
    for name, tensor in copied_weights(load_model(str(tmp_path / "little"))).items():
        torch.testing.assert_close(tensor, weights[name], atol=2e-4, rtol=1e-3)


def test_a_copy_of_the_error_is_not_kept() -> None:
    """What failed is freed before the next try: nothing holds the tensors of its frames."""
    alive: list[Any] = []

    class Held:
        def __init__(self) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    seen: list[int] = []

    def work(size: int) -> int:
        held = Held()
        seen.append(len(alive))
        if size > 1:
            raise copy.copy(GPU)
        return size if held else 0

    assert with_smaller_batches("x", 4, work, TrainError) == (1, 1)
    assert seen == [1, 1, 1]
