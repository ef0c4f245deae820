"""The critic: first values in the units of the returns, and explained variance within kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from ppo_toys import CONFIG, with_settings, word_prompts

from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import load_renderer
from cai.reward.preference_model import PreferenceModel
from cai.train.losses import explained_variance, explained_variance_within
from cai.train.ppo.actor import POLICY, LoraActor
from cai.train.ppo.critic import Critic
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.ppo.trainer import PPOTrainer

RUBRIC = {"benign": 1.0, "disallowed": -2.0}
PM_SCORE, PM_WEIGHT = 2.0 * 0.7 - 0.5, 0.5


@pytest.mark.parametrize("scale_rewards", [False, True])
@pytest.mark.parametrize("critic", ["reference", "reward"])
def test_values_begin_at_the_returns(
    tiny_model: Path, tmp_path: Path, critic: str, scale_rewards: bool
) -> None:
    """A reply earns -1.55 or 1.45 by the kind of its prompt, in two parts. Without a KL penalty the
    value of every token is the return of every token from the first update on.

    The preference model gives every text the same score, which is a part of the reward.
    """
    base = with_adapter(load_model(str(tiny_model)), POLICY, CONFIG.lora_rank)
    actor = LoraActor(base)
    if critic == "reward":
        judge = PreferenceModel(base, load_renderer(tiny_model), rank=4)
        torch.nn.init.zeros_(judge.head.weight)
        torch.nn.init.constant_(judge.head.bias, 0.7)
        judge.gain, judge.bias = 2.0, -0.5
        actor.critic.init_from_preference_model(judge, PM_WEIGHT)

    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        return {
            "pm": [PM_WEIGHT * PM_SCORE for _ in rollouts],
            "rubric": [RUBRIC[str(r.prompt.kind)] for r in rollouts],
        }

    config = with_settings(
        CONFIG, num_updates=1, value_lam=1.0, scale_rewards=scale_rewards, kl={"coef": 0.0}
    )
    config = with_settings(config, num_minibatches=1, num_ppo_epochs=1)
    trainer = PPOTrainer(actor, load_renderer(tiny_model), score, config)
    prompts = word_prompts(4, ("benign", "disallowed"))
    [metrics] = trainer.train(prompts, tmp_path)
    assert metrics["reward"] == pytest.approx((1.0 - 2.0) / 2 + 0.45)
    assert metrics["value_loss"] == pytest.approx(0.0, abs=1e-9)
    assert metrics["explained_variance"] == pytest.approx(1.0, abs=1e-6)


def test_what_a_critic_predicts_already_is_scaled_too() -> None:
    critic = Critic(3)
    torch.nn.init.constant_(critic.head.weight, 0.5)
    torch.nn.init.constant_(critic.head.bias, 1.0)
    critic.init_from_rewards(["benign", "benign"], [1.0, 2.0], scale=4.0)
    assert set(critic.head.weight.flatten().tolist()) == {2.0}
    assert sorted(set(critic.head.bias.tolist())) == [4.0, 10.0]


def test_means_of_kinds_explain_nothing_within_kinds() -> None:
    """Returns 0 2 | 10 14, about their kinds' means -1 1 | -2 2: variance 10 / 4 = 2.5.

    Values that are the means leave all of it. Values 0 1 | 10 12 are off by -1/2 1/2 | -1 1 within
    kinds: 1 - (0.5 + 2) / 10 = 0.75.
    """
    returns, kinds = torch.tensor([0.0, 2.0, 10.0, 14.0]), torch.tensor([3, 3, 0, 0])
    means = torch.tensor([1.0, 1.0, 12.0, 12.0])
    total = explained_variance(means, returns)
    assert total is not None
    assert total > 0.9
    assert explained_variance_within(means, returns, kinds) == pytest.approx(0.0)
    halves = torch.tensor([0.0, 1.0, 10.0, 12.0])
    assert explained_variance_within(halves, returns, kinds) == pytest.approx(0.75)
    assert explained_variance_within(halves, means, kinds) is None
