"""Validation: which of a policy's states becomes the final one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cai.artifacts import VALIDATION_FILE
from cai.records import Kind
from cai.train.ppo.config import BalanceConfig, PPOConfig
from cai.train.ppo.reward_table import ScoredRollouts
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.ppo.validation import Validation, validation_requests
from tests.ppo_toys import (
    CONFIG,
    PROMPTS,
    fresh_trainer,
    high_bytes,
    with_settings,
    word_prompts,
)

KINDS: tuple[Kind, Kind] = ("disallowed", "benign")
TARGETS = BalanceConfig(targets={"disallowed": 0.1, "benign": 0.1})


def scored(disallowed: int, benign: int) -> ScoredRollouts:
    """Ten responses to prompts of each kind, of which so many fail."""
    prompts = word_prompts(20, KINDS)
    failing = dict(zip(KINDS, (disallowed, benign), strict=True))
    rubric: list[float | None] = []
    for prompt in prompts:
        assert prompt.kind in failing
        failing[prompt.kind] -= 1
        rubric.append(-1.0 if failing[prompt.kind] >= 0 else 1.0)
    rollouts = [Rollout(prompt, [1], [2], "text", True) for prompt in prompts]
    totals = [float(value or 0) for value in rubric]
    return ScoredRollouts(rollouts, {"rubric": rubric}, list(range(20)), totals)


def test_the_weights_nearest_to_all_targets_are_kept() -> None:
    """Ways left, from 0.6 and 0.3 to 0.1: (1, 1), (0, 2), (0.4, 0.5), (-0.2 counts as 0, 1)."""
    weight = torch.zeros(1)
    validation = Validation([torch.zeros(1)])
    for updates, failing in enumerate([(6, 3), (1, 5), (3, 2), (0, 3)]):
        weight.fill_(updates)
        rates = validation.record(updates, scored(*failing), TARGETS, [weight])
    assert rates == {"disallowed": 0.0, "benign": 0.3}
    assert [row["score"] for row in validation.history] == pytest.approx([-1, -1, -0.45, -0.5])
    assert validation.best["updates"] == 2
    assert float(validation.weights[0]) == 2


def test_without_targets_the_reward_decides() -> None:
    validation = Validation([torch.zeros(1)])
    for updates, failing in enumerate([(6, 3), (1, 2), (3, 2)]):
        validation.record(updates, scored(*failing), BalanceConfig(), [torch.tensor([updates])])
    assert validation.best["updates"] == 1


def test_seeds_are_the_same_in_every_validation() -> None:
    first, second = (validation_requests(PROMPTS, 2, 7) for _ in range(2))
    assert first == second
    assert len({request.seed for request in first}) == 2 * len(PROMPTS)


def only_the_start_pays(calls: list[int]) -> Any:
    """A reward that falls with every call: the weights before the first update are the best."""

    def reward(rollouts: Sequence[Rollout]) -> RewardTable:
        calls.append(len(rollouts))
        return {"falling": [-float(len(calls)) + 0.1 * len(set(r.response_ids)) for r in rollouts]}

    return reward


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_policy_ends_as_its_best_state(
    tiny_model: Path, tmp_path: Path, ema_decay: float | None
) -> None:
    config = with_settings(CONFIG, num_updates=2, every=1, draws=1, ema_decay=ema_decay)
    trainer = fresh_trainer(tiny_model, config, only_the_start_pays([]))
    before = [p.detach().clone() for p in trainer.actor.trainable_parameters()]
    trainer.train(PROMPTS[:4], tmp_path, validation_prompts=PROMPTS[4:])
    after = trainer.actor.trainable_parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    rows = [json.loads(line) for line in (tmp_path / VALIDATION_FILE).read_text().splitlines()]
    assert [row["updates"] for row in rows] == [0, 1, 2]


def weights_after(trainer: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.actor.trainable_parameters()]


def test_a_resumed_run_validates_as_an_uninterrupted_one(tiny_model: Path, tmp_path: Path) -> None:
    def run(config: PPOConfig, folder: Path) -> Any:
        trainer = fresh_trainer(tiny_model, config, high_bytes)
        trainer.train(PROMPTS[:4], folder, validation_prompts=PROMPTS[4:])
        return trainer

    config = with_settings(CONFIG, num_updates=3, every=1, draws=2, ema_decay=0.9)
    at_once = run(config, tmp_path / "at-once")
    # a run of two updates is the same as one of three that a kill ended after two
    run(with_settings(config, num_updates=2), tmp_path / "resumed")
    resumed = run(config, tmp_path / "resumed")
    assert resumed.validation.history == at_once.validation.history
    pairs = zip(weights_after(resumed), weights_after(at_once), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_balance_follows_the_validation(tiny_model: Path, tmp_path: Path) -> None:
    """Responses to benign validation prompts never fail, those to disallowed ones always do: the
    rates of the training prompts, the other way round, play no part.
    """
    train, validation = word_prompts(4, KINDS), word_prompts(6, KINDS)[4:]

    def reward(rollouts: Sequence[Rollout]) -> RewardTable:
        held = {prompt.id for prompt in validation}
        return {
            "rubric": [
                1.0 if (r.prompt.kind == "benign") == (r.prompt.id in held) else -1.0
                for r in rollouts
            ]
        }

    config = with_settings(CONFIG, num_updates=1, every=1)
    config = config.model_copy(update={"balance": TARGETS})
    trainer = fresh_trainer(tiny_model, config, reward)
    trainer.train(train, tmp_path, validation_prompts=validation)
    assert trainer.balance.failures == {"disallowed": 1.0, "benign": 0.0}
