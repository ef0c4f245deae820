"""Around PPO: rewards that are asked of a coroutine, curves for others, published recipes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from cai.errors import TrainError, UsageError
from cai.records import Prompt, chat_of
from cai.train.ppo.config import (
    AdvantageConfig,
    KLConfig,
    OptimizationConfig,
    PPOConfig,
    PtxConfig,
    RolloutConfig,
)
from cai.train.ppo.reward_table import compute_rewards
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.tracking import plottable_metrics, tracker

ROLLOUTS = [Rollout(Prompt(chat=chat_of(("user", "hi"))), [1], [2, 3], "x", True)] * 3


def test_a_reward_may_be_a_coroutine_function() -> None:
    """Three questions at once to a server that cannot answer the second: that rollout is unknown,
    the others are not.
    """
    under_way: list[int] = []

    async def ask(i: int) -> float | None:
        under_way.append(i)
        await asyncio.sleep(0)
        assert len(under_way) == 3
        return None if i == 1 else float(i)

    async def score(rollouts: Sequence[Rollout]) -> RewardTable:
        return {"server": list(await asyncio.gather(*map(ask, range(len(rollouts)))))}

    assert compute_rewards(score, ROLLOUTS) == {"server": [0.0, None, 2.0]}
    assert compute_rewards(lambda rollouts: {"plain": [1.0, None, 2.0]}, ROLLOUTS) == {
        "plain": [1.0, None, 2.0]
    }


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"r": [1.0, 2.0]}, "'r' has 2 values for 3 rollouts"),
        ({"r": [1.0, float("nan"), 2.0]}, "'r' is not a finite number somewhere: None stands for"),
        ({"r": [1.0, float("inf"), 2.0]}, "'r' is not a finite number somewhere"),
    ],
)
def test_a_reward_that_is_no_number_is_refused(table: RewardTable, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        compute_rewards(lambda rollouts: table, ROLLOUTS)


def test_curves_hold_what_is_known() -> None:
    assert plottable_metrics({"update": 3, "kl": 1, "explained_variance": None, "reward": 0.5}) == {
        "kl": 1.0,
        "reward": 0.5,
    }


def test_curves_go_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            told.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, value, step))

        def flush(self) -> None:
            told.append("flushed")

    monkeypatch.setattr("cai.train.tracking.find_spec", lambda name: name)
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer)
    )
    tracker("tensorboard", tmp_path, "mine")(4, {"kl": 0.5, "update": 4})
    assert told == [(str(tmp_path), 4), ("ppo/kl", 0.5, 4), "flushed"]
    told.clear()
    fake = SimpleNamespace(
        init=lambda **given: told.append(given), log=lambda row, step: told.append((row, step))
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    tracker("trackio", tmp_path, "mine")(4, {"kl": 0.5})
    assert told == [{"project": "cai", "name": "mine", "resume": "allow"}, ({"kl": 0.5}, 4)]
    tracker(None, tmp_path, "mine")(4, {"kl": 0.5})


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_package_is_named(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai.train.tracking.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=f"{name} is not installed: pip install {name}"):
        tracker(name, tmp_path, "mine")


def test_instructgpt_by_name() -> None:
    """arXiv:2203.02155: 256,000 episodes, 512 an update, 64 a step, one epoch, beta 0.02, gamma
    27.8, EMA 0.992, T = 1, eight texts an episode, ten updates of warm-up."""
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


def test_what_a_run_says_counts_more_than_the_recipe() -> None:
    """Key by key, inside sections too."""
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
    """At most 12 settings a section; PPO itself has its five sections besides."""
    settings = [
        name for name, field in section.model_fields.items() if field.annotation not in SECTIONS
    ]
    assert len(settings) <= 12
