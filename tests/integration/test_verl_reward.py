"""The reward manager, the reward function and the advantages for verl.

They run against verl where it is installed, and else against its published signatures.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from engine_toys import HAS_VERL, CharacterTokenizer, plugin, reply_batch
from reward_toys import TOKEN, by_length, serving, url_of

from cai.integrations.plugins import plugin_source
from cai.integrations.reward_requests import Limits
from cai.integrations.reward_server import RewardServer
from cai.reward.composite import RewardWeights

BENIGN = {"chat": json.dumps([{"role": "user", "content": "Hi"}]), "kind": "benign"}
real = pytest.mark.skipif(not HAS_VERL, reason="verl is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[RewardServer]:
    with serving(by_length, limits=Limits(timeout_s=20)) as running:
        yield running


@pytest.fixture
def engine(server: RewardServer, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The plug-in, pointed to the server."""
    monkeypatch.setenv("CAI_REWARD_URL", url_of(server))
    monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)
    return plugin("verl_reward", monkeypatch)


def run_all(
    engine: ModuleType, replies: list[str], estimator: str = "cai_grpo", **extra: Any
) -> list[Any]:
    """What the manager says of replies that arrive at once; exceptions as values."""
    data = reply_batch(replies, [BENIGN | extra for _ in replies])

    async def score() -> list[Any]:
        config = SimpleNamespace(algorithm=SimpleNamespace(adv_estimator=estimator))
        manager = engine.RewardManager(
            config=config,
            tokenizer=CharacterTokenizer(),
            compute_score=None,
            reward_router_address=None,
            reward_model_tokenizer=None,
        )
        rows = [manager.run_single(data[i : i + 1]) for i in range(len(replies))]
        return await asyncio.wait_for(asyncio.gather(*rows, return_exceptions=True), 30)

    return asyncio.run(score())


def test_replies_that_wait_share_requests(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """150 replies need 3 requests of at most 64 rows; some start before all have arrived."""
    sizes: list[int] = []
    post = engine.post

    def counted(path: str, body: dict[str, Any], *rest: Any) -> Any:
        sizes.append(len(body["rows"]))
        return post(path, body, *rest)

    monkeypatch.setattr(engine, "post", counted)
    replies = [" ".join("a" * (1 + i % 9)) for i in range(150)]
    results = run_all(engine, replies)
    assert [result["reward_score"] for result in results] == [2.0 + i % 9 for i in range(150)]
    assert sum(sizes) == 150
    assert max(sizes) <= 64
    assert len(sizes) <= 15
    info = results[0]["reward_extra_info"]
    assert (info["pm"], info["rubric"], info["length"], info["cai_error"]) == (1.0, 1.0, 0.0, 0.0)


def test_the_chat_comes_from_the_prompt_where_no_column_has_it(engine: ModuleType) -> None:
    (result,) = run_all(engine, ["a b"], chat=None)
    assert result["reward_score"] == 3.0


def test_an_unknown_reward_is_nan_and_leaves_the_others_alone(engine: ModuleType) -> None:
    """One row is unknown to the reward, and one makes the whole request fail."""
    results = run_all(engine, ["a", "who knows", "a b", "boom", "a b c"])
    scores = [result["reward_score"] for result in results]
    assert [scores[0], scores[2], scores[4]] == [2.0, 3.0, 4.0]
    assert math.isnan(scores[1])
    assert math.isnan(scores[3])
    errors = [result["reward_extra_info"]["cai_error"] for result in results]
    assert errors == [0.0, 1.0, 0.0, 1.0, 0.0]
    assert all(r["reward_extra_info"].keys() == set(engine_keys(engine)) for r in results)


def engine_keys(engine: ModuleType) -> list[str]:
    return ["score", *engine.PARTS, "cai_error"]


def test_there_is_a_column_for_every_part_of_the_reward(engine: ModuleType) -> None:
    """Each weight of the mix is a part; the plug-in would drop one without a column."""
    assert set(engine.PARTS) == set(RewardWeights.model_fields) - {"free_words"}


def test_an_unknown_reward_ends_the_training_under_other_estimators(engine: ModuleType) -> None:
    known, unknown = run_all(engine, ["a", "who knows"], "grpo")
    assert known["reward_score"] == 2.0
    assert isinstance(unknown, RuntimeError)
    assert "a reward is unknown: pm: prompt and reply do not fit" in str(unknown)


def test_too_many_unknown_rewards_end_the_training(engine: ModuleType) -> None:
    """5 of 25 are a fifth, which is allowed; the sixth of 26 is not."""
    # one after the other: batches of rows that wait together are counted as they are answered
    results = run_all(engine, ["a"] * 20) + run_all(engine, ["who knows"] * 5)
    assert not any(isinstance(result, Exception) for result in results)
    (result,) = run_all(engine, ["who knows"])
    assert isinstance(result, RuntimeError)
    assert re.search(r"6 of the last 26 rewards are unknown \(limit 20%\)", str(result))


def test_without_a_server_no_reward_is_known(
    engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAI_REWARD_URL", "http://127.0.0.1:9")
    results = run_all(engine, ["a", "b"])
    assert all(math.isnan(result["reward_score"]) for result in results)


def test_the_function_has_always_the_same_keys(engine: ModuleType) -> None:
    info = BENIGN | {"num_turns": 1}
    known = engine.compute_score("cai", "a b", "", info)
    assert list(known) == engine_keys(engine)
    assert (known["score"], known["pm"], known["cai_error"]) == (3.0, 2.0, 0.0)
    no_rubric = engine.compute_score("cai", "a b", "", info | {"kind": None})
    assert (no_rubric["score"], no_rubric["rubric"]) == (2.0, 0.0)
    elsewhere = {"server_url": "http://127.0.0.1:9"}
    for reply, fields, arguments in (
        ("who knows", info, {}),
        ("a", None, {}),
        ("boom", info, {}),
        ("\ud800", info, {}),
        ("a", info, elsewhere),
    ):
        with pytest.raises(RuntimeError, match="cai: a reward is unknown: "):
            engine.compute_score("cai", reply, "", fields, **arguments)


ROWS = [1.0, 3.0, math.nan, 5.0, math.nan, 7.0]
PROMPTS = np.array(["p", "p", "p", "q", "q", "r"], dtype=object)


def test_advantages_by_hand(engine: ModuleType) -> None:
    """p has 1 and 3: mean 2, std sqrt 2. q has one known row of two, and r is alone."""
    rewards_BT = torch.zeros(6, 3)
    rewards_BT[:, 1] = torch.tensor(ROWS)
    mask_BT = torch.tensor([[1.0, 1.0, 0.0]]).expand(6, 3)
    advantages_BT, returns_BT = engine.known_grpo_advantages(
        token_level_rewards=rewards_BT, response_mask=mask_BT, index=PROMPTS, config=None
    )
    half = 2**-0.5
    assert advantages_BT[:, 0].tolist() == pytest.approx([-half, half, 0, 0, 0, 7], abs=1e-4)
    assert torch.equal(advantages_BT, returns_BT)
    assert advantages_BT[:, 2].tolist() == [0.0] * 6
    unscaled, _ = engine.known_grpo_advantages(
        rewards_BT, mask_BT, PROMPTS, {"norm_adv_by_std_in_grpo": False}
    )
    assert unscaled[:, 0].tolist() == [-1.0, 1.0, 0.0, 0.0, 0.0, 7.0]


# ---- verl's own code ----


def engine_config(path: Path, manager: dict[str, Any], estimator: str, function: bool) -> Any:
    from omegaconf import OmegaConf

    custom = {"path": str(path), "name": "compute_score", "reward_kwargs": {}}
    return OmegaConf.create(
        {
            "algorithm": {"adv_estimator": estimator},
            "trainer": {"experiment_name": "toy"},
            "reward": {
                "num_workers": 1,
                "reward_manager": manager,
                "custom_reward_function": custom if function else {"path": None, "name": None},
            },
        }
    )


@real
def test_verl_loads_the_manager_by_its_path(engine: ModuleType, tmp_path: Path) -> None:
    """Each load executes the file again, on the driver and in every worker."""
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn
    from verl.trainer.ppo.reward import load_reward_manager, resolve_reward_manager_cls

    path = tmp_path / "verl_reward.py"
    path.write_text(plugin_source("verl_reward"), encoding="utf-8")
    manager = {"source": "importlib", "name": "RewardManager", "module": {"path": str(path)}}
    config = engine_config(path, manager, "cai_grpo", function=False)
    resolve_reward_manager_cls(config)
    data = reply_batch(["a b", "who knows"], [BENIGN, BENIGN])

    async def score() -> list[Any]:
        loaded = load_reward_manager(
            config, CharacterTokenizer(), reward_router_address=None, reward_model_tokenizer=None
        )
        return await asyncio.gather(*(loaded.run_single(data[i : i + 1]) for i in range(2)))

    results = asyncio.run(score())
    assert results[0]["reward_score"] == 3.0
    assert math.isnan(results[1]["reward_score"])
    cls = resolve_reward_manager_cls(config)
    scores = cls.assemble_rm_scores(data, [result["reward_score"] for result in results])
    assert scores[0].sum() == 3.0
    assert math.isnan(scores[1].sum())
    assert get_adv_estimator_fn("cai_grpo").__name__ == "known_grpo_advantages"


@real
@pytest.mark.filterwarnings("ignore::UserWarning:verl")  # of its optional parts
def test_verl_s_advantages_are_ours_where_all_rewards_are_known(engine: ModuleType) -> None:
    from verl.trainer.ppo.ray_trainer import compute_advantage

    torch.manual_seed(0)
    names = ["p", "p", "q", "q", "q", "r"]
    results = {}
    for estimator in ("grpo", "cai_grpo"):
        data = reply_batch(["abc"] * 6, [BENIGN] * 6)
        generator = torch.Generator().manual_seed(1)
        rewards = torch.zeros_like(data.batch["responses"], dtype=torch.float32)
        rewards[:, 2] = torch.randn(6, generator=generator)
        data.batch["token_level_rewards"] = rewards
        data.non_tensor_batch["uid"] = np.array(names, dtype=object)
        results[estimator] = compute_advantage(data, estimator).batch["advantages"]
    torch.testing.assert_close(results["cai_grpo"], results["grpo"])


@real
@pytest.mark.parametrize("manager", ["naive", "gdpo", "remote"])
def test_verl_s_managers_call_the_function(
    engine: ModuleType, tmp_path: Path, manager: str
) -> None:
    from verl.trainer.ppo.reward import load_reward_manager

    path = tmp_path / "verl_reward.py"
    path.write_text(plugin_source("verl_reward"), encoding="utf-8")
    config = engine_config(path, {"source": "register", "name": manager}, "gdpo", function=True)
    if manager == "remote":
        import ray

        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    data = reply_batch(["a b", "who knows"], [dict(BENIGN), dict(BENIGN)])

    async def score() -> list[Any]:
        loaded = load_reward_manager(config, CharacterTokenizer())
        rows = (loaded.run_single(data[i : i + 1]) for i in range(2))
        return await asyncio.gather(*rows, return_exceptions=True)

    try:
        known, unknown = asyncio.run(score())
    finally:
        if manager == "remote":
            ray.shutdown()
    assert known["reward_score"] == 3.0
    assert known["reward_extra_info"]["rubric"] == 1.0
    assert isinstance(unknown, RuntimeError)
    assert "a reward is unknown" in str(unknown)
