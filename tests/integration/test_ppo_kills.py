"""What must not go wrong unseen in PPO: numbers that break, draws made twice, signals, full disks,
states of other runs.
"""

from __future__ import annotations

import asyncio
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
    experience_of,
    fresh,
    fresh_actor,
    high_bytes,
    reply,
    run,
    weights,
    with_settings,
)
from pydantic import ValidationError
from safetensors import SafetensorError

from cai.errors import StoreError, TrainError
from cai.modeling.tokenization import load_renderer
from cai.pipeline.config import Run
from cai.records import Prompt, chat_of
from cai.reward.composite import RewardWeights
from cai.store import atomic_directory
from cai.train import checkpoint
from cai.train.distributed import is_peer_failure
from cai.train.ppo import ptx
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.prompt_sampler import sample_prompts, with_repeat_index
from cai.train.ppo.ptx import ptx_losses
from cai.train.ppo.reward_table import compute_rewards
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.ppo.steps import lr_warmup_factor
from cai.train.tracking import stop_after_failure

# ---- draws ----


def test_a_prompt_that_comes_twice_gets_other_replies(tiny_model: Path, tmp_path: Path) -> None:
    """Four times one prompt, two replies each: eight draws, and the first two are those of a prompt
    that comes once.
    """
    seen: list[list[list[int]]] = []

    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        seen.append([r.response_ids for r in rollouts])
        return high_bytes(rollouts)

    for prompts in (4, 1):
        config = with_settings(CONFIG, num_updates=1, prompts_per_update=prompts, num_minibatches=1)
        run(fresh(tiny_model, config, score), tmp_path / str(prompts), PROMPTS[:1])
    assert len({tuple(ids) for ids in seen[0]}) == 8
    assert seen[0][:2] == seen[1]


def test_repetitions_are_counted_in_order() -> None:
    a, b = PROMPTS[:2]
    assert with_repeat_index([a, b, a, a, b]) == [(a, 0), (b, 0), (a, 1), (a, 2), (b, 1)]
    assert [n for _, n in with_repeat_index(sample_prompts(PROMPTS, 12, 0, 0))].count(0) == 5


# ---- numbers that break ----


def test_a_loss_that_overflows_leaves_the_last_state(tiny_model: Path, tmp_path: Path) -> None:
    """A reward of 1e30 is a number, its square is none in float32. The update before it is what a
    next run finds.
    """
    calls: list[int] = []

    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        calls.append(1)
        return {"huge": [1e30 if len(calls) == 2 else 0.1 * i for i in range(len(rollouts))]}

    trainer = fresh(tiny_model, reward_fn=score)
    with pytest.raises(
        TrainError, match="value_loss is inf; lower ppo\\.optimization\\.learning_rate"
    ):
        run(trainer, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert all(bool(torch.isfinite(p).all()) for p in weights(trainer).values())


def test_a_gradient_that_is_no_number_is_not_stepped_along(
    tiny_model: Path, tmp_path: Path
) -> None:
    trainer = fresh(tiny_model)
    before = weights(trainer)
    trainer.actor.trainable_parameters()[0].register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainError, match="grad_norm is nan"):
        run(trainer, tmp_path)
    assert all(
        torch.equal(weights(trainer)[name], tensor)
        for name, tensor in before.items()
        if name.startswith("model.")
    )
    assert not (tmp_path / "checkpoints").exists()


# ---- fine-tuning text ----


def test_texts_are_read_a_few_at_a_time(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once, or all five: the same loss and gradient, to rounding; as many in memory as
    `rows` says.
    """
    renderer, sizes, found = load_renderer(tiny_model), [], []
    texts = [
        reply([65 + i] * (i + 1) + [renderer.eos_token_id], renderer, PROMPTS[i]) for i in range(5)
    ]
    forward = ptx.response_hidden
    monkeypatch.setattr(
        ptx,
        "response_hidden",
        lambda model, batch, *more: (sizes.append(len(batch)), forward(model, batch, *more))[1],
    )
    for rows in (2, 64):
        actor = fresh_actor(tiny_model)
        loss = 0.0
        for part in ptx_losses(actor.policy, texts, rows):
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
        found.append(
            (loss, [p.grad.clone() for p in actor.trainable_parameters() if p.grad is not None])
        )
    assert sizes == [2, 2, 1, 5]
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    for some, whole in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(some, whole, atol=1e-5, rtol=1e-4)


def test_texts_that_are_missing_are_missed(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="there is no fine-tuning text"):
        run(fresh(tiny_model, with_settings(CONFIG, ptx={"coef": 1.0})), tmp_path)


# ---- settings ----


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
def test_settings_that_would_do_nothing_or_worse(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PPOConfig.model_validate(settings)


def test_a_reward_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="every weight is 0"):
        RewardWeights(pm=0, rubric=0)
    run = {
        "name": "x",
        "constitution": "c.yaml",
        "prompts": ["p.jsonl"],
        "ppo": {"critic": "reward"},
    }
    assert Run.model_validate(run).ppo.critic == "reward"
    with pytest.raises(ValidationError, match="which reward_weights\\.pm: 0 leaves out"):
        Run.model_validate(run | {"reward_weights": {"pm": 0}})


def test_the_rate_rises_from_a_tenth() -> None:
    assert [lr_warmup_factor(step, 10) for step in (-4, 0, 5, 10, 11)] == pytest.approx(
        [0.1, 0.1, 0.55, 1.0, 1.0]
    )
    assert lr_warmup_factor(0, 0) == 1.0


def test_the_critic_does_not_use_up_the_policy_s_warm_up(tiny_model: Path, tmp_path: Path) -> None:
    """Eight steps an update, the first update for the critic alone: at the second's end the policy
    has made seven of sixteen.
    """
    config = with_settings(CONFIG, critic_warmup_updates=1, lr_warmup_steps=16)
    trainer = fresh(tiny_model, config)
    run(trainer, tmp_path)
    policy, critic = (group["lr"] for group in trainer.optimizer.param_groups)
    assert policy == pytest.approx(config.optimization.learning_rate * (0.1 + 0.9 * 7 / 16))
    assert critic == config.optimization.critic_learning_rate


def test_rewards_may_be_rescaled_over_the_update(tiny_model: Path) -> None:
    """Tokens' rewards 0 1 | 0 5: mean 1.5, mean square 6.5, variance 4.25. The critic says 0:
    returns are 1 and 5 by its root.
    """
    renderer = load_renderer(tiny_model)
    rollouts = [reply([65, 66], renderer), reply([67, 68], renderer)]
    config = with_settings(CONFIG, scale_rewards=True, lam=1.0)
    got, _ = experience_of(fresh_actor(tiny_model), rollouts, [1.0, 5.0], config, kl_coef=0.0)
    assert [row.tolist() for row in got.returns] == [
        pytest.approx([r / 4.25**0.5] * 2, abs=1e-5) for r in (1.0, 5.0)
    ]


# ---- signals ----


@pytest.fixture
def heard() -> Any:
    """Both signals raise KeyboardInterrupt, as under the command line."""

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_update(
    tiny_model: Path, tmp_path: Path, heard: Any, number: int, capfd: Any
) -> None:
    """Told in the middle of the second of three: it is finished and saved, though nothing else
    would be; then the run goes on.
    """
    config = with_settings(CONFIG, num_updates=3, save_every=100)
    whole = run(fresh(tiny_model, config), tmp_path / "whole")
    calls: list[int] = []

    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(number)
        return high_bytes(rollouts)

    with pytest.raises(KeyboardInterrupt, match=str(int(number))):
        run(fresh(tiny_model, config, score), tmp_path / "told")
    assert "finishing this update" in capfd.readouterr().err
    assert [p.name for p in (tmp_path / "told" / "checkpoints").iterdir()] == ["step-000002"]
    assert run(fresh(tiny_model, config, weight_seed=7), tmp_path / "told") == whole


def test_a_second_signal_ends_it_at_once(tiny_model: Path, tmp_path: Path, heard: Any) -> None:
    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("not at once")

    with pytest.raises(KeyboardInterrupt):
        run(fresh(tiny_model, CONFIG, score), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


# ---- states ----


@pytest.mark.parametrize("other", ["seed", "temperature", "prompts"])
def test_the_state_of_another_run_is_refused(tiny_model: Path, tmp_path: Path, other: str) -> None:
    run(fresh(tiny_model, with_settings(CONFIG, num_updates=1)), tmp_path)
    config = with_settings(CONFIG, temperature=0.5) if other == "temperature" else CONFIG
    prompts = [Prompt(chat=chat_of(("user", "hm")))] if other == "prompts" else PROMPTS
    with pytest.raises(StoreError, match="made with other settings, another seed or other prompts"):
        run(fresh(tiny_model, config, seed=1 if other == "seed" else 0), tmp_path, prompts)


def test_a_file_that_cannot_grow_leaves_the_last_state(tiny_model: Path, tmp_path: Path) -> None:
    trainer = fresh(tiny_model)
    checkpoint.save(tmp_path, 1, trainer.state_tensors(), trainer.optimizer, {"state_digest": "x"})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(StoreError, match="step-000002: cannot write: "):
            checkpoint.save(
                tmp_path, 2, trainer.state_tensors(), trainer.optimizer, {"state_digest": "x"}
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    assert checkpoint.load(tmp_path, trainer.state_tensors(), trainer.optimizer, "x") == {
        "step": 1,
        "state_digest": "x",
    }


def test_a_full_disk_is_told_by_whoever_finds_it(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match="model: the disk is full"),
        atomic_directory(tmp_path / "model"),
    ):
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )


# ---- others ----


def test_curves_that_fail_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[int] = []

    def tell(step: int, metrics: Any) -> None:
        asked.append(step)
        raise ConnectionRefusedError("nobody there")

    told = stop_after_failure("trackio", tell)
    for step in range(3):
        told(step, {})
    assert asked == [0]
    assert (
        capsys.readouterr().err
        == "track: trackio failed at update 0 and is left out from here on: nobody there\n"
    )


def test_a_reward_that_fails_is_blamed() -> None:
    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        raise ConnectionRefusedError("nobody there")

    with pytest.raises(TrainError, match="ppo: the reward: ConnectionRefusedError: nobody there"):
        compute_rewards(score, [])


def test_a_reward_may_be_awaited_where_a_loop_is_running() -> None:
    """As in a notebook."""

    async def score(rollouts: Sequence[Rollout]) -> RewardTable:
        await asyncio.sleep(0)
        return {"r": []}

    async def notebook() -> RewardTable:
        return compute_rewards(score, [])

    assert asyncio.run(notebook()) == {"r": []}


def test_who_is_blamed_where_a_process_ends() -> None:
    """What gloo says in the others; and what a process says of itself."""
    assert is_peer_failure(
        RuntimeError(
            "[/src/third_party/gloo/gloo/transport/tcp/pair.cc:547] "
            "Connection closed by peer [127.0.0.1]:1"
        )
    )
    assert is_peer_failure(torch.distributed.DistBackendError("NCCL error"))
    assert not is_peer_failure(torch.OutOfMemoryError("out of memory"))
    assert not is_peer_failure(RuntimeError("The size of tensor a (3) must match"))
