"""The PPO loop on the tiny model: what is trained and what is not, steps, metrics, bandits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from ppo_toys import (
    CONFIG,
    PROMPTS,
    copied_weights,
    experience_of,
    fresh_trainer,
    gradient_norm,
    high_bytes,
    literal_logprobs,
    logprobs_and_states,
    ratio_errors,
    rollout_of,
    train,
    with_settings,
)

from cai.errors import TrainError
from cai.modeling.loading import load_model
from cai.modeling.lora import adapter_parameters, add_adapter, with_adapter
from cai.modeling.tokenization import load_renderer
from cai.records import Prompt, chat_of
from cai.seeds import rng
from cai.train.ppo.actor import POLICY, LoraActor
from cai.train.ppo.experience import random_partition
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.ppo.sampler_gap import MAX_SAMPLER_GAP
from cai.train.ppo.trainer import PPOTrainer


def test_the_first_minibatch_sees_the_policy_that_sampled(tiny_model: Path, tmp_path: Path) -> None:
    """Ratio 1 at the first minibatch of every update, and another ratio at later minibatches.

    A micro-batch is one reply: of the first minibatch of two, the first forward pass is reused and
    the second computed again.
    """
    config = with_settings(CONFIG, num_updates=3, learning_rate=1e-2, micro_batch_size=1)
    trainer = fresh_trainer(tiny_model, config)
    taken = ratio_errors(trainer)
    assert len(train(trainer, tmp_path)) == 3
    steps = config.optimization.num_ppo_epochs * config.optimization.num_minibatches
    assert len(taken) == 3 * steps
    assert max(taken[::steps]) < 1e-5
    assert min(error for i, error in enumerate(taken) if i % steps) > 1e-3


def test_the_sampler_is_compared_with_the_learner(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At another temperature than 1, the recorded numbers are the policy's, to rounding."""
    config = with_settings(CONFIG, num_updates=3, learning_rate=1e-2, temperature=0.7)
    history = train(fresh_trainer(tiny_model, config), tmp_path)
    assert all(0 <= row["sampler_gap"] < 1e-5 for row in history)
    assert "sampler" not in capsys.readouterr().err


def test_a_sampler_with_other_weights_is_named_once(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy that keeps the weights of the start, in a run of three updates: |log p - log p'| of
    the tokens that it samples, computed here from unpadded forward passes.
    """
    config = with_settings(CONFIG, num_updates=3, learning_rate=3e-2)
    torch.manual_seed(0)
    base = with_adapter(load_model(str(tiny_model)), POLICY, config.lora_rank)
    actor, stale = LoraActor(base, load_model(str(tiny_model))), load_model(str(tiny_model))
    actor.copy_weights_to = lambda target: None  # type: ignore[method-assign]
    wanted: list[float] = []

    @torch.no_grad()
    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        logps, _ = logprobs_and_states(actor, POLICY, rollouts)
        gaps = [a - literal_logprobs(stale, r) for a, r in zip(logps, rollouts, strict=True)]
        wanted.append(float(torch.cat(gaps).abs().mean()))
        return high_bytes(rollouts)

    history = train(PPOTrainer(actor, load_renderer(tiny_model), score, config), tmp_path)
    assert [row["sampler_gap"] for row in history] == pytest.approx(wanted, abs=1e-5)
    assert min(wanted[1:]) > MAX_SAMPLER_GAP
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "sampler" in line] == [
        f"ppo: update 1: the sampler's log-probabilities are {wanted[1]:.2g} nats a token from the "
        "policy's, more than 0.1: what is sampled is not what is trained (another number format, "
        "or wrong weights)"
    ]


@pytest.mark.parametrize("copied", [False, True])
def test_the_sampler_has_the_weights_of_the_policy(
    tiny_model: Path, tmp_path: Path, copied: bool
) -> None:
    """While an update is scored, the rollout model, merged or not, gives replies the
    log-probabilities of the adapter.
    """
    config = with_settings(CONFIG, learning_rate=1e-2)
    torch.manual_seed(0)
    base = with_adapter(load_model(str(tiny_model)), POLICY, config.lora_rank)
    actor = LoraActor(base, load_model(str(tiny_model)) if copied else None)
    moved: list[float] = []

    @torch.no_grad()
    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        logps, _ = logprobs_and_states(actor, POLICY, rollouts)
        refs, _ = logprobs_and_states(actor, None, rollouts)
        moved.append(max(float((a - b).abs().max()) for a, b in zip(logps, refs, strict=True)))
        with actor.rollout_model() as sampler:
            for r, logp_T in zip(rollouts, logps, strict=True):
                torch.testing.assert_close(logp_T, literal_logprobs(sampler, r), atol=1e-4, rtol=0)
        return high_bytes(rollouts)

    train(PPOTrainer(actor, load_renderer(tiny_model), score, config), tmp_path)
    assert moved[0] == 0
    assert moved[1] > 0.01


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (1, 4), (3, 2)])
def test_optimizer_steps(tiny_model: Path, tmp_path: Path, epochs: int, minibatches: int) -> None:
    """Updates x epochs x minibatches: TRL 1.12 took one step an epoch in all cases."""
    config = with_settings(CONFIG, num_ppo_epochs=epochs, num_minibatches=minibatches)
    trainer, steps = fresh_trainer(tiny_model, config), []
    trainer.learner.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    train(trainer, tmp_path)
    assert len(steps) == 2 * epochs * minibatches


def test_only_the_policy_and_the_critic_learn(tiny_model: Path, tmp_path: Path) -> None:
    """The base and another adapter on it keep every bit; so do the reference's log-probabilities of
    a fixed reply.
    """
    trainer, renderer = fresh_trainer(tiny_model), load_renderer(tiny_model)
    actor = trainer.actor
    add_adapter(actor.module.model, "reward", 2)
    fixed = [
        rollout_of([5, 9, renderer.eos_token_id], renderer),
        rollout_of([200, 17], renderer, PROMPTS[3]),
    ]
    before, reference = (
        copied_weights(trainer.actor.module),
        logprobs_and_states(actor, None, fixed),
    )
    policy_before = logprobs_and_states(actor, POLICY, fixed)[0]
    train(trainer, tmp_path)
    after = copied_weights(trainer.actor.module)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        name for name in before if f".{POLICY}." in name or name.startswith("critic.")
    }
    for old, new in zip(reference, logprobs_and_states(actor, None, fixed), strict=True):
        assert all(map(torch.equal, old, new))
    assert not torch.equal(policy_before[0], logprobs_and_states(actor, POLICY, fixed)[0][0])


def test_only_the_last_blocks_learn(tiny_model: Path, tmp_path: Path) -> None:
    config = with_settings(CONFIG, num_trainable_layers=1)
    trainer = fresh_trainer(tiny_model, config)
    trainable = [key for key, p in trainer.actor.module.model.named_parameters() if p.requires_grad]
    assert trainable
    assert all(".layers.1." in key for key in trainable)  # the tiny model has blocks 0 and 1
    train(trainer, tmp_path)


def test_the_kl_of_the_first_update_is_0(tiny_model: Path, tmp_path: Path) -> None:
    """Before the first step the policy is the reference; after it, it is not."""
    first, second = train(fresh_trainer(tiny_model), tmp_path)
    assert first["kl"] == first["kl_k3"] == 0
    assert second["kl"] != 0
    assert second["kl_k3"] > 0


def test_gradients_are_clipped(tiny_model: Path, tmp_path: Path) -> None:
    """The optimizer's gradients have at most the norm max_grad_norm, policy and critic apart; the
    metric is the norm before clipping.
    """
    config = with_settings(CONFIG, max_grad_norm=1e-3)
    trainer, norms = fresh_trainer(tiny_model, config), []

    def record(*_: object) -> None:
        policy = gradient_norm(adapter_parameters(trainer.actor.module.model, POLICY))
        norms.append((policy, gradient_norm(trainer.actor.critic.parameters())))

    trainer.learner.optimizer.register_step_pre_hook(record)
    history = train(trainer, tmp_path)
    assert min(row["grad_norm"] for row in history) > 1e-2
    assert max(max(pair) for pair in norms) <= 1e-3 * (1 + 1e-4)
    assert min(min(pair) for pair in norms) > 0


def test_unknown_rewards_are_left_out_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    """Six of eight are trained on; the metric `reward` is the mean of those six."""
    known: list[float] = []

    def partly_known(rollouts: Sequence[Rollout]) -> RewardTable:
        part = [None if i in (1, 4) else v for i, v in enumerate(high_bytes(rollouts)["high"])]
        known.append(sum(v for v in part if v is not None) / 6)
        return {"high": part}

    history = train(fresh_trainer(tiny_model, reward_fn=partly_known), tmp_path)
    assert [(row["episodes"], row["unscored"]) for row in history] == [(6, 2), (6, 2)]
    assert [row["reward"] for row in history] == pytest.approx(known)


def test_no_known_reward_at_all_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    trainer = fresh_trainer(tiny_model, reward_fn=lambda rollouts: {"pm": [None] * len(rollouts)})
    before = copied_weights(trainer.actor.module)
    with pytest.raises(TrainError, match="no rollout of this update has a known reward"):
        train(trainer, tmp_path)
    assert all(torch.equal(before[k], v) for k, v in copied_weights(trainer.actor.module).items())


def test_equal_rewards_leave_no_nan_in_the_metrics(tiny_model: Path, tmp_path: Path) -> None:
    """One token, one reward for all: the explained variance of constant returns is null."""
    config = with_settings(CONFIG, max_new_tokens=1, kl={"coef": 0})
    history = train(
        fresh_trainer(tiny_model, config, lambda rollouts: {"one": [1.0] * len(rollouts)}), tmp_path
    )
    assert history[0]["explained_variance"] is None
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert [json.loads(line) for line in text.splitlines()] == history


def test_metrics_name_the_parts_of_the_reward(tiny_model: Path, tmp_path: Path) -> None:
    for row in train(fresh_trainer(tiny_model), tmp_path):
        assert row["reward.half"] == 0.5
        assert row["reward"] == pytest.approx(row["reward.high"] + 0.5)


def test_the_end_token_is_learnt(tiny_model: Path) -> None:
    """Replies that end after one byte get 1, others get 0: the end token becomes likelier.

    With masks made of the pad token's id, the end token would not be in the loss.
    """
    config = with_settings(CONFIG, learning_rate=3e-3, num_minibatches=1, kl={"coef": 0})
    trainer, renderer = fresh_trainer(tiny_model, config), load_renderer(tiny_model)
    actor = trainer.actor
    ended = [rollout_of([65, renderer.eos_token_id], renderer) for _ in range(4)]
    longer = [rollout_of([65, 66 + i], renderer) for i in range(4)]

    def end_logp() -> float:
        return float(logprobs_and_states(actor, POLICY, ended[:1])[0][0][1])

    before = end_logp()
    for update in range(5):
        batches = random_partition(8, 1, rng(0, update))
        trainer.learner.optimize(
            *experience_of(
                actor, ended + longer, [1.0] * 4 + [0.0] * 4, config, minibatches=batches
            )
        )
    assert end_logp() > before + 0.5


def bandit(tiny: Path, folder: Path, **settings: Any) -> tuple[float, float, list[dict[str, Any]]]:
    """(P(arm) before, P(arm) after, metrics) of one-token replies: one token has the reward 1."""
    arm, prompt = 216, Prompt(chat=chat_of(("user", "say a")))
    config = with_settings(
        CONFIG,
        **{
            "num_updates": 20,
            "prompts_per_update": 1,
            "responses_per_prompt": 32,
            "max_new_tokens": 1,
            "num_minibatches": 1,
            "learning_rate": 1e-2,
        }
        | settings,
    )
    renderer = load_renderer(tiny)
    paying = [rollout_of([arm], renderer, prompt)]

    def probability() -> float:
        return float(logprobs_and_states(trainer.actor, POLICY, paying)[0][0].exp())

    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        return {"arm": [float(r.response_ids == [arm]) for r in rollouts]}

    trainer = fresh_trainer(tiny, config, score)
    before = probability()
    history = train(trainer, folder, [prompt])
    return before, probability(), history


def test_a_bandit_is_learnt_and_the_kl_penalty_limits_it(tiny_model: Path, tmp_path: Path) -> None:
    """The paying token is drawn about once in sixteen at first and nearly always at the end.

    With a KL coefficient of 1 a nat costs as much as the arm pays: the optimal policy has e times
    the odds, less than one in six, and the KL stays small.
    """
    before, after, free = bandit(tiny_model, tmp_path / "free", kl={"coef": 0.0})
    assert before < 0.1
    assert after > 0.8
    _, penalised, held = bandit(tiny_model, tmp_path / "held", kl={"coef": 1.0})
    assert penalised < 0.3
    assert held[-1]["kl"] < free[-1]["kl"] / 4


def test_a_target_of_the_kl_is_held(tiny_model: Path, tmp_path: Path) -> None:
    """The coefficient 0.1 lets the bandit go to 2.6 nats; 1 nat needs three times as much.

    The horizon of the run's size gets there; 2,000 episodes move the coefficient by a fifth.
    """
    kls = {}
    for horizon in (None, 2000):
        kl = {"coef": 0.1, "target": 1.0, "horizon": horizon}
        *_, history = bandit(tiny_model, tmp_path / str(horizon), num_updates=60, kl=kl)
        kls[horizon] = fmean(row["kl"] for row in history[-15:])
    assert kls[None] == pytest.approx(1.0, abs=0.3)
    assert kls[2000] > 2
