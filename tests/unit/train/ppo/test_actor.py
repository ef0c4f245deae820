"""Actors of PPO: adapters or all weights, in one process or two, sharded or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import ranks
import torch
from forked_ranks import run_forked_ranks
from interruptions import Killed, killed_at
from ppo_toys import copied_weights, experience_of, fine_tuning_texts, with_settings
from safetensors.torch import load_file

from cai.modeling.loading import load_model
from cai.modeling.lora import adapter_parameters, with_adapter
from cai.modeling.tokenization import load_renderer
from cai.records import Kind
from cai.reward.preference_model import ADAPTER, PreferenceModel
from cai.train.ppo.actor import POLICY, FullActor, LoraActor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.experience import experience_metrics
from cai.train.ppo.rollout import RewardFn, Rollout
from cai.train.ppo.trainer import PPOTrainer

CONFIG = with_settings(ranks.CONFIG, mode="full", ema_decay=None)


def full_actor(tiny: Path, num_trainable_layers: int | None = None) -> FullActor:
    policy, reference = load_model(str(tiny)), load_model(str(tiny))
    return FullActor(policy, reference, num_trainable_layers=num_trainable_layers)


def train(
    actor: FullActor,
    tiny: Path,
    folder: Path,
    config: PPOConfig = CONFIG,
    reward_fn: RewardFn = ranks.score,
) -> list[dict[str, float]]:
    folder.mkdir(exist_ok=True)
    renderer = load_renderer(tiny)
    texts = fine_tuning_texts(renderer, ranks.PROMPTS)
    return PPOTrainer(actor, renderer, reward_fn, config).train(ranks.PROMPTS, folder, texts)


def test_every_weight_learns_and_the_reference_keeps_every_bit(
    tiny_model: Path, tmp_path: Path
) -> None:
    actor = full_actor(tiny_model)
    before = copied_weights(actor.model)
    history = train(actor, tiny_model, tmp_path / "run")
    assert all(not torch.equal(before[name], p) for name, p in actor.model.named_parameters())
    assert all(torch.equal(before[name], p) for name, p in actor.reference_model.named_parameters())
    assert not any(p.requires_grad for p in actor.reference_model.parameters())
    assert max(row["sampler_gap"] for row in history) < 1e-4
    assert history[0]["kl"] == 0 < history[1]["kl_k3"]
    copied, ids = load_model(str(tiny_model)), torch.tensor([[5, 9, 200]])
    actor.copy_weights_to(copied)
    assert torch.equal(copied(ids).logits, actor.model(ids).logits)
    with actor.rollout_model() as sampler:
        assert sampler is actor.model


def test_policy_and_critic_are_one_module(tiny_model: Path) -> None:
    """The module has all trainable parameters, and not those of the reference."""
    actor = full_actor(tiny_model)
    assert {id(p) for p in actor.module.parameters()} == {
        id(p) for p in [*actor.trainable_parameters(), *actor.critic.parameters()]
    }
    adapters = LoraActor(with_adapter(load_model(str(tiny_model)), POLICY, 4))
    learning = {id(p) for p in adapters.module.parameters() if p.requires_grad}
    assert learning == {
        id(p) for p in [*adapters.trainable_parameters(), *adapters.critic.parameters()]
    }


def test_only_the_last_blocks_learn(tiny_model: Path, tmp_path: Path) -> None:
    actor = full_actor(tiny_model, num_trainable_layers=1)
    before = copied_weights(actor.model)
    train(actor, tiny_model, tmp_path / "run", with_settings(CONFIG, num_trainable_layers=1))
    changed = {
        name for name, p in actor.model.named_parameters() if not torch.equal(before[name], p)
    }
    assert changed == {name for name in before if ".layers.1." in name}


def test_full_fine_tuning_is_resumed_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    uninterrupted, cut, resumed = (full_actor(tiny_model) for _ in range(3))
    history = train(uninterrupted, tiny_model, tmp_path / "uninterrupted")
    train(cut, tiny_model, tmp_path / "cut", with_settings(CONFIG, num_updates=1))
    assert train(resumed, tiny_model, tmp_path / "cut") == history
    assert all(map(torch.equal, uninterrupted.module.parameters(), resumed.module.parameters()))


@pytest.mark.parametrize("full", [False, True])
def test_the_critic_may_begin_as_the_preference_model(
    tiny_model: Path, tmp_path: Path, full: bool
) -> None:
    """The value before each token is the preference model's score of the text so far; the head is
    then trained.
    """
    base = with_adapter(load_model(str(tiny_model)), ADAPTER if full else POLICY, 4)
    judge = PreferenceModel(base, load_renderer(tiny_model), rank=4)
    with torch.no_grad():
        for parameter in adapter_parameters(base, ADAPTER):
            parameter.normal_(0, 0.1)
    judge.gain, judge.bias = 2.0, -0.5
    actor = FullActor(load_model(str(tiny_model)), base) if full else LoraActor(base)
    actor.critic.init_from_preference_model(judge)
    ids = judge.renderer.prompt_ids(ranks.PROMPTS[0].chat)
    rollouts = [
        Rollout(ranks.PROMPTS[0], ids, [3, 4, 257], "x", True),
        Rollout(ranks.PROMPTS[0], ids, [5, 6], "y", False),
    ]
    config = with_settings(CONFIG, num_minibatches=1, mode="full" if full else "lora")
    trainer = PPOTrainer(actor, load_renderer(tiny_model), ranks.score, config)
    experience, first_forward = experience_of(actor, rollouts, [1.0, 0.0], config)
    for rollout, values in zip(rollouts, experience.values, strict=True):
        prefixes = [ids + rollout.response_ids[:t] for t in range(len(rollout.response_ids))]
        assert values.tolist() == pytest.approx(judge.score(prefixes), abs=1e-4)
    before = actor.critic.head.weight.detach().clone()
    trainer.learner.optimize(experience, first_forward)
    assert not torch.equal(actor.critic.head.weight, before)
    assert torch.equal(judge.head.weight.expand_as(before) * judge.gain, before), (
        "the head of the preference model is unchanged"
    )


def test_the_critic_tells_kinds_of_prompts_apart(tiny_model: Path) -> None:
    """One text is worth 1 for one kind and -1 for another, which no head on states alone can
    represent.
    """
    actor = LoraActor(with_adapter(load_model(str(tiny_model)), POLICY, 4))
    kinds: list[Kind] = ["benign", "disallowed"]
    rollouts = [
        Rollout(ranks.PROMPTS[0].model_copy(update={"kind": kind}), [3, 4], [5, 6], "x", True)
        for kind in kinds
    ]
    config = with_settings(CONFIG, num_minibatches=1, num_ppo_epochs=20, critic_learning_rate=2e-2)
    trainer = PPOTrainer(actor, load_renderer(tiny_model), ranks.score, config)
    for _ in range(10):
        experience, first_forward = experience_of(actor, rollouts, [1.0, -1.0], config)
        trainer.learner.optimize(experience, first_forward)
    assert [round(float(values.mean())) for values in experience.values] == [1, -1]
    explained = experience_metrics(experience)["explained_variance"]
    assert explained is not None
    assert explained > 0.8


def test_checkpoints_may_be_rare(tiny_model: Path, tmp_path: Path) -> None:
    """Every second of three updates, and the last: killed in the third, the run is resumed from the
    second, bit for bit.
    """
    config = with_settings(CONFIG, num_updates=3, save_every=2)
    uninterrupted, resumed = full_actor(tiny_model), full_actor(tiny_model)
    history = train(uninterrupted, tiny_model, tmp_path / "uninterrupted", config)
    killed = killed_at(2, ranks.score)
    with pytest.raises(Killed):
        train(full_actor(tiny_model), tiny_model, tmp_path / "cut", config, killed)
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()] == ["step-000002"]
    assert train(resumed, tiny_model, tmp_path / "cut", config) == history
    assert all(map(torch.equal, uninterrupted.module.parameters(), resumed.module.parameters()))


def test_adapters_are_not_sharded() -> None:
    with pytest.raises(ValueError, match="only full fine-tuning shards"):
        PPOConfig(shard=True)


@pytest.fixture(scope="module")
def two_processes(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two processes, in each mode."""
    folder = tmp_path_factory.mktemp("two")
    run_forked_ranks(lambda: ranks.train_modes(tiny_model, folder), folder / "log")
    return folder


# two processes train in each mode
@pytest.mark.slow
@pytest.mark.parametrize("mode", list(ranks.MODES))
def test_two_processes_compute_the_update_of_one(
    two_processes: Path, tiny_model: Path, tmp_path: Path, mode: str
) -> None:
    """Same prompts, draws, minibatches, whitening, centring, KL, controller, ptx, clipping, steps:
    weights to float tolerance.

    Five minibatches of two replies, some of unknown reward: a process may have no row of one. The
    two processes with sharded weights were stopped after an update and resumed, and compute their
    activations again, which the one process keeps.
    """
    one, two = tmp_path / "one", two_processes / mode
    ranks.train_and_save(mode, tiny_model, one)
    expected, weights = (load_file(folder / "weights.safetensors") for folder in (one, two))
    assert expected.keys() == weights.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, atol=2e-5, rtol=1e-3)
    history, first, second = (
        json.loads(path.read_text())
        for path in (one / "history-0.json", two / "history-0.json", two / "history-1.json")
    )
    assert first == second, "both processes know all metrics"
    assert any(row["unscored"] for row in history)
    for mine, theirs in zip(history, first, strict=True):
        assert mine.keys() == theirs.keys()
        assert {k: theirs[k] for k in mine.keys() - {"ratio_error"}} == pytest.approx(
            {k: mine[k] for k in mine.keys() - {"ratio_error"}}, abs=1e-4
        )
        assert 0 < theirs["sampler_gap"] < 1e-4, "recorded in both processes, and gathered"
    assert len((two / "metrics.jsonl").read_text().splitlines()) == 2
