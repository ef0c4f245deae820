"""Faults of PPO runs: numbers that overflow, repeated draws, signals, full disks."""

from __future__ import annotations

import resource
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_toys import (
    CONFIG,
    PROMPTS,
    copied_weights,
    fresh_trainer,
    high_bytes,
    train,
    with_settings,
)
from safetensors import SafetensorError

from cai.errors import StoreError, TrainError
from cai.store import atomic_directory
from cai.train import checkpoint
from cai.train.ppo.rollout import RewardTable, Rollout


def test_a_prompt_that_comes_twice_gets_other_replies(tiny_model: Path, tmp_path: Path) -> None:
    """Four times one prompt, two replies each: eight different replies, of which the first two are
    those to a prompt that comes once.
    """
    seen: list[list[list[int]]] = []

    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        seen.append([r.response_ids for r in rollouts])
        return high_bytes(rollouts)

    for prompts in (4, 1):
        config = with_settings(CONFIG, num_updates=1, prompts_per_update=prompts, num_minibatches=1)
        train(fresh_trainer(tiny_model, config, score), tmp_path / str(prompts), PROMPTS[:1])
    assert len({tuple(ids) for ids in seen[0]}) == 8
    assert seen[0][:2] == seen[1]


def test_a_loss_that_overflows_leaves_the_last_state(tiny_model: Path, tmp_path: Path) -> None:
    """A reward of 1e30 is finite, its square is not in float32. The checkpoint of the update before
    remains.
    """
    calls: list[int] = []

    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        calls.append(1)
        return {"huge": [1e30 if len(calls) == 2 else 0.1 * i for i in range(len(rollouts))]}

    trainer = fresh_trainer(tiny_model, reward_fn=score)
    with pytest.raises(
        TrainError, match="value_loss is inf; lower ppo\\.optimization\\.learning_rate"
    ):
        train(trainer, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert all(bool(torch.isfinite(p).all()) for p in copied_weights(trainer.actor.module).values())


def test_a_gradient_that_is_nan_causes_no_step(tiny_model: Path, tmp_path: Path) -> None:
    trainer = fresh_trainer(tiny_model)
    before = copied_weights(trainer.actor.module)
    trainer.actor.trainable_parameters()[0].register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainError, match="grad_norm is nan"):
        train(trainer, tmp_path)
    assert all(
        torch.equal(copied_weights(trainer.actor.module)[name], tensor)
        for name, tensor in before.items()
        if name.startswith("model.")
    )
    assert not (tmp_path / "checkpoints").exists()


@pytest.fixture
def signals_interrupt() -> Any:
    """Both signals raise KeyboardInterrupt, as under the command line."""

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_update(
    tiny_model: Path, tmp_path: Path, signals_interrupt: Any, number: int, capfd: Any
) -> None:
    """A signal in the second of three updates: it is finished and saved, although no checkpoint is
    due; then the run is resumed.
    """
    config = with_settings(CONFIG, num_updates=3, save_every=100)
    uninterrupted = train(fresh_trainer(tiny_model, config), tmp_path / "uninterrupted")
    calls: list[int] = []

    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(number)
        return high_bytes(rollouts)

    with pytest.raises(KeyboardInterrupt, match=str(int(number))):
        train(fresh_trainer(tiny_model, config, score), tmp_path / "signalled")
    assert "finishing this update" in capfd.readouterr().err
    assert [p.name for p in (tmp_path / "signalled" / "checkpoints").iterdir()] == ["step-000002"]
    assert (
        train(fresh_trainer(tiny_model, config, weight_seed=7), tmp_path / "signalled")
        == uninterrupted
    )


def test_a_second_signal_ends_the_run_at_once(
    tiny_model: Path, tmp_path: Path, signals_interrupt: Any
) -> None:
    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("not at once")

    with pytest.raises(KeyboardInterrupt):
        train(fresh_trainer(tiny_model, CONFIG, score), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_file_that_cannot_grow_leaves_the_last_state(tiny_model: Path, tmp_path: Path) -> None:
    learner = fresh_trainer(tiny_model).learner
    checkpoint.save(
        tmp_path,
        1,
        learner.state_tensors(),
        learner.optimizer,
        {"state_digest": "x"},
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(StoreError, match="step-000002: cannot write: "):
            checkpoint.save(
                tmp_path,
                2,
                learner.state_tensors(),
                learner.optimizer,
                {"state_digest": "x"},
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    assert checkpoint.load(tmp_path, learner.state_tensors(), learner.optimizer, "x") == {
        "step": 1,
        "state_digest": "x",
    }


def test_a_full_disk_is_named_by_writers_of_safetensors(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match="model: the disk is full"),
        atomic_directory(tmp_path / "model"),
    ):
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )
