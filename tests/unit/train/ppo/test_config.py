"""Settings of PPO: published recipes, overrides, refused combinations."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from cai.train.losses import KLController
from cai.train.ppo.config import (
    AdvantageConfig,
    KLConfig,
    OptimizationConfig,
    PPOConfig,
    PtxConfig,
    RolloutConfig,
)


def test_instructgpt_by_name() -> None:
    """arXiv:2203.02155: 256,000 episodes, 512 an update, 64 a step, one epoch, beta 0.02, gamma
    27.8, EMA 0.992, T = 1, eight texts an episode, ten updates of warm-up.
    """
    config = PPOConfig.model_validate({"preset": "instructgpt"})
    rollout, steps = config.rollout, config.optimization
    assert config.num_updates * rollout.episodes == 256_000
    assert (rollout.episodes, rollout.episodes // steps.num_minibatches, steps.num_ppo_epochs) == (
        512,
        64,
        1,
    )
    assert (config.kl.coef, config.ptx.coef, steps.ema_decay) == (0.02, 27.8, 0.992)
    assert (rollout.temperature, steps.clip_range) == (1.0, 0.2)
    assert config.ptx.batch_size * steps.num_minibatches == 8 * rollout.episodes
    assert steps.lr_warmup_steps == 10 * steps.num_minibatches
    assert config.mode == "full"


def test_settings_of_a_run_override_the_preset() -> None:
    """Key by key, also inside sections."""
    config = PPOConfig.model_validate(
        {
            "preset": "instructgpt",
            "rollout": {"prompts_per_update": 64},
            "kl": {"target": 6.0},
            "mode": "lora",
        }
    )
    assert (config.rollout.prompts_per_update, config.rollout.temperature) == (64, 1.0)
    assert (config.kl.target, config.kl.coef, config.mode) == (6.0, 0.02, "lora")
    assert config.optimization.ema_decay == 0.992
    assert PPOConfig.model_validate({"preset": "cai"}).kl.coef == 0.001
    with pytest.raises(ValidationError, match="preset"):
        PPOConfig.model_validate({"preset": ["cai"]})
    with pytest.raises(ValidationError, match="instructgpt"):
        PPOConfig.model_validate({"preset": "chatgpt"})


SECTIONS = (PPOConfig, RolloutConfig, AdvantageConfig, OptimizationConfig, KLConfig, PtxConfig)


@pytest.mark.parametrize("section", SECTIONS)
def test_sections_stay_small(section: type[BaseModel]) -> None:
    """At most 12 settings a section; PPOConfig has its five sections in addition."""
    names = [
        name for name, field in section.model_fields.items() if field.annotation not in SECTIONS
    ]
    assert len(names) <= 12


@pytest.mark.parametrize(("kl", "grows"), [(100.0, True), (0.0, False)])
def test_a_whole_run_of_full_errors_moves_the_coefficient_by_about_ten(
    kl: float, grows: bool
) -> None:
    """100 updates of 64: horizon = 0.2 * 6400 / ln 10 = 555.9; a step is 1 ± ln 10 / 100.

    1.023026^100 = 9.74, 0.976974^100 = 1/10.27.
    """
    config = PPOConfig(num_updates=100, kl=KLConfig(coef=0.05, target=2.0))
    assert config.kl_horizon == pytest.approx(555.9, abs=0.05)
    controller = KLController(config.kl.coef, config.kl.target, config.kl_horizon)
    for _ in range(config.num_updates):
        controller = controller.updated(kl, config.rollout.episodes)
    assert controller.beta / 0.05 == pytest.approx(9.74 if grows else 1 / 10.27, rel=1e-3)


def test_an_update_of_a_short_run_moves_the_coefficient_by_a_half_at_most() -> None:
    """Two updates of 64: 0.2 * 128 / ln 10 = 11.1 would make the coefficient negative."""
    config = PPOConfig(num_updates=2, kl=KLConfig(coef=0.05, target=2.0))
    controller = KLController(config.kl.coef, config.kl.target, config.kl_horizon)
    assert controller.updated(0.0, config.rollout.episodes).beta == pytest.approx(0.025)
    assert PPOConfig(num_updates=2, kl=KLConfig(target=2.0, horizon=2000)).kl_horizon == 2000


def test_rollouts_are_a_multiple_of_the_minibatches() -> None:
    with pytest.raises(
        ValueError,
        match=r"responses_per_prompt = 6 is not a multiple of optimization\.num_minibatches = 4",
    ):
        PPOConfig(
            rollout={"prompts_per_update": 3, "responses_per_prompt": 2},
            optimization={"num_minibatches": 4},
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl": {"coef": 0.0, "target": 3.0}}, "coef = 0 stays 0"),
        (
            {
                "rollout": {"prompts_per_update": 100, "responses_per_prompt": 4},
                "kl": {"target": 3.0, "horizon": 80},
            },
            "horizon = 80.*give more than 80",
        ),
        (
            {"rollout": {"shares": {"benign": 20, "sensitive": 0.5}}},
            "sensitive gets none of an update's 16 prompts",
        ),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PPOConfig.model_validate(settings)
