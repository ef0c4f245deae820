"""Checkpoints of PPO: killed runs equal uninterrupted ones; other states are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from interruptions import Killed, killed_at
from ppo_toys import (
    CONFIG,
    PROMPTS,
    copied_weights,
    fresh_trainer,
    high_bytes,
    train,
    with_settings,
)

from cai.errors import StoreError
from cai.records import Prompt, chat_of
from cai.train.losses import KLController
from cai.train.ppo.resume import state_digest
from cai.train.ppo.trainer import PPOTrainer

ADAPTIVE = with_settings(
    CONFIG, num_updates=4, learning_rate=3e-3, kl={"coef": 0.1, "target": 0.05, "horizon": 20}
)


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PPOTrainer, list[dict[str, Any]]]:
    """(folder, trainer, metrics) of four updates without a kill."""
    folder, trainer = tmp_path_factory.mktemp("uninterrupted"), fresh_trainer(tiny_model, ADAPTIVE)
    return folder, trainer, train(trainer, folder)


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_killed_run_equals_an_uninterrupted_one(
    tiny_model: Path, tmp_path: Path, uninterrupted: Any, calls: int
) -> None:
    """To the last bit: killed while scoring, with a line of metrics that has no checkpoint, and a
    torn line.
    """
    folder, trainer, history = uninterrupted
    with pytest.raises(Killed):
        train(fresh_trainer(tiny_model, ADAPTIVE, killed_at(calls, high_bytes)), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 99}\n{"torn')
    # with a checkpoint, the initial weights have no effect
    resumed = fresh_trainer(tiny_model, ADAPTIVE, weight_seed=0 if calls == 0 else 7)
    assert train(resumed, tmp_path) == history
    assert (tmp_path / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
    assert resumed.kl_controller == trainer.kl_controller
    weights = copied_weights(resumed.actor.module)
    for name, tensor in copied_weights(trainer.actor.module).items():
        assert torch.equal(weights[name], tensor), name


def test_finished_runs_sample_nothing_more(tiny_model: Path, uninterrupted: Any) -> None:
    folder, _, history = uninterrupted
    assert train(fresh_trainer(tiny_model, ADAPTIVE, None, weight_seed=3), folder) == history


def test_the_controller_follows_the_measured_kl(uninterrupted: Any) -> None:
    """Each coefficient is the previous one, adapted by the previous KL; test_losses.py checks the
    formula by hand.
    """
    _, trainer, history = uninterrupted
    controller = KLController(0.1, 0.05, 20)
    for row in history:
        assert row["kl_coef"] == controller.beta
        controller = controller.updated(row["kl"], 8)
    assert trainer.kl_controller == controller
    assert controller.beta != 0.1


def test_one_checkpoint_is_kept(uninterrupted: Any) -> None:
    folder, _, _ = uninterrupted
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-000004"]


@pytest.mark.parametrize("damage", ["tensors", "state", "missing"])
def test_a_torn_checkpoint_is_refused_by_name(
    tiny_model: Path, tmp_path: Path, damage: str
) -> None:
    train(fresh_trainer(tiny_model, with_settings(CONFIG, num_updates=1)), tmp_path)
    saved = tmp_path / "checkpoints" / "step-000001"
    file = saved / ("state.json" if damage == "state" else "state.safetensors")
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(
        StoreError,
        match=r"step-000001: not a checkpoint of this run \(delete .*checkpoints to start",
    ):
        train(fresh_trainer(tiny_model), tmp_path)


@pytest.mark.parametrize("change", [{"lora_rank": 8}, {"num_trainable_layers": 1}])
def test_a_foreign_checkpoint_is_refused_by_name(
    tiny_model: Path, tmp_path: Path, change: dict[str, int]
) -> None:
    """Another LoRA rank gives other shapes; fewer layers give fewer tensors."""
    train(fresh_trainer(tiny_model, with_settings(CONFIG, num_updates=1)), tmp_path)
    other = with_settings(CONFIG, **change)
    with pytest.raises(StoreError, match="step-000001: not a checkpoint of this run"):
        train(fresh_trainer(tiny_model, other), tmp_path)


@pytest.mark.parametrize("other", ["seed", "temperature", "prompts"])
def test_the_state_of_another_run_is_refused(tiny_model: Path, tmp_path: Path, other: str) -> None:
    train(fresh_trainer(tiny_model, with_settings(CONFIG, num_updates=1)), tmp_path)
    config = with_settings(CONFIG, temperature=0.5) if other == "temperature" else CONFIG
    prompts = [Prompt(chat=chat_of(("user", "hm")))] if other == "prompts" else PROMPTS
    with pytest.raises(StoreError, match="made with other settings, another seed or other prompts"):
        train(
            fresh_trainer(tiny_model, config, seed=1 if other == "seed" else 0), tmp_path, prompts
        )


def test_more_updates_continue_a_run_unless_the_horizon_follows_from_them() -> None:
    """A run that is continued equals one that had as many updates from the start."""

    def key(updates: int, **kl: Any) -> str:
        config = with_settings(CONFIG, num_updates=updates, kl={"coef": 0.1} | kl)
        return state_digest(config, PROMPTS, (), 0)

    assert key(10) == key(20)
    assert key(10, target=1.0) != key(20, target=1.0)
    assert key(10, target=1.0, horizon=50) == key(20, target=1.0, horizon=50)
    assert key(10, target=1.0, horizon=50) != key(10, target=1.0, horizon=60)
