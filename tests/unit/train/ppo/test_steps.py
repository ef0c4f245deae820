"""The learning rate's warm-up, which the critic does not use up."""

from __future__ import annotations

from pathlib import Path

import pytest
from ppo_toys import CONFIG, fresh_trainer, train, with_settings

from cai.train.ppo.steps import lr_warmup_factor


def test_the_rate_rises_from_a_tenth() -> None:
    assert [lr_warmup_factor(step, 10) for step in (-4, 0, 5, 10, 11)] == pytest.approx(
        [0.1, 0.1, 0.55, 1.0, 1.0]
    )
    assert lr_warmup_factor(0, 0) == 1.0


def test_the_critic_does_not_use_up_the_policy_s_warm_up(tiny_model: Path, tmp_path: Path) -> None:
    """Eight steps an update, the first update for the critic alone: the last step of the second is
    the policy's eighth of sixteen.
    """
    config = with_settings(CONFIG, critic_warmup_updates=1, lr_warmup_steps=16)
    trainer = fresh_trainer(tiny_model, config)
    train(trainer, tmp_path)
    policy, critic = (group["lr"] for group in trainer.learner.optimizer.param_groups)
    assert policy == pytest.approx(config.optimization.learning_rate * (0.1 + 0.9 * 7 / 16))
    assert critic == config.optimization.critic_learning_rate
