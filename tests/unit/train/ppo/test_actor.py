"""Who learns: adapters or every weight, in one process or two, whole or spread; always the same
update.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import ranks
import torch
from ppo_toys import experience_of, with_settings
from safetensors.torch import load_file

from cai.modeling.loading import load_model
from cai.modeling.lora import adapter_parameters, with_adapter
from cai.modeling.tokenization import load_renderer
from cai.records import Kind
from cai.reward.preference_model import ADAPTER, PreferenceModel
from cai.train.ppo.actor import POLICY, FullActor, LoraActor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.experience import experience_metrics
from cai.train.ppo.rollout import RewardFn, RewardTable, Rollout
from cai.train.ppo.trainer import PPOTrainer

CONFIG = with_settings(ranks.CONFIG, mode="full", ema_decay=None)


def full(tiny: Path, num_trainable_layers: int | None = None) -> FullActor:
    policy, reference = load_model(str(tiny)), load_model(str(tiny))
    return FullActor(policy, reference, num_trainable_layers=num_trainable_layers)


def trained(
    actor: FullActor,
    tiny: Path,
    folder: Path,
    config: PPOConfig = CONFIG,
    reward_fn: RewardFn = ranks.score,
) -> list[dict[str, float]]:
    folder.mkdir(exist_ok=True)
    renderer = load_renderer(tiny)
    texts = [(renderer.prompt_ids(p.chat), renderer.response_ids("fine")) for p in ranks.PROMPTS]
    return PPOTrainer(actor, renderer, reward_fn, config).train(ranks.PROMPTS, folder, texts)


def test_every_weight_learns_and_the_reference_keeps_every_bit(
    tiny_model: Path, tmp_path: Path
) -> None:
    actor = full(tiny_model)
    before = {name: p.detach().clone() for name, p in actor.model.named_parameters()}
    history = trained(actor, tiny_model, tmp_path / "run")
    assert all(not torch.equal(before[name], p) for name, p in actor.model.named_parameters())
    assert all(torch.equal(before[name], p) for name, p in actor.reference_model.named_parameters())
    assert not any(p.requires_grad for p in actor.reference_model.parameters())
    assert max(row["first_ratio_error"] for row in history) < 1e-5
    assert history[0]["kl"] == 0 < history[1]["kl_k3"]
    copied, ids = load_model(str(tiny_model)), torch.tensor([[5, 9, 200]])
    actor.copy_weights_to(copied)
    assert torch.equal(copied(ids).logits, actor.model(ids).logits)
    with actor.rollout_model() as sampler:
        assert sampler is actor.model


def test_policy_and_critic_are_one_module(tiny_model: Path) -> None:
    """An optimizer that takes the module has all that learns, and not the reference."""
    actor = full(tiny_model)
    assert {id(p) for p in actor.module.parameters()} == {
        id(p) for p in [*actor.trainable_parameters(), *actor.critic.parameters()]
    }
    adapters = LoraActor(with_adapter(load_model(str(tiny_model)), POLICY, 4))
    learning = {id(p) for p in adapters.module.parameters() if p.requires_grad}
    assert learning == {
        id(p) for p in [*adapters.trainable_parameters(), *adapters.critic.parameters()]
    }


def test_only_the_last_blocks_learn(tiny_model: Path, tmp_path: Path) -> None:
    actor = full(tiny_model, num_trainable_layers=1)
    before = {name: p.detach().clone() for name, p in actor.model.named_parameters()}
    trained(actor, tiny_model, tmp_path / "run", with_settings(CONFIG, num_trainable_layers=1))
    changed = {
        name for name, p in actor.model.named_parameters() if not torch.equal(before[name], p)
    }
    assert changed == {name for name in before if ".layers.1." in name}


def test_full_fine_tuning_is_gone_on_with_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    whole, cut, again = full(tiny_model), full(tiny_model), full(tiny_model)
    history = trained(whole, tiny_model, tmp_path / "whole")
    trained(cut, tiny_model, tmp_path / "cut", with_settings(CONFIG, num_updates=1))
    assert trained(again, tiny_model, tmp_path / "cut") == history
    assert all(map(torch.equal, whole.module.parameters(), again.module.parameters()))


@pytest.mark.parametrize("whole", [False, True])
def test_the_critic_may_begin_as_the_preference_model(
    tiny_model: Path, tmp_path: Path, whole: bool
) -> None:
    """The value before each token is the preference model's score of what was said so far; from
    there the head learns.
    """
    base = with_adapter(load_model(str(tiny_model)), ADAPTER if whole else POLICY, 4)
    judge = PreferenceModel(base, load_renderer(tiny_model), rank=4)
    with torch.no_grad():
        for parameter in adapter_parameters(base, ADAPTER):
            parameter.normal_(0, 0.1)
    judge.gain, judge.bias = 2.0, -0.5
    actor = FullActor(load_model(str(tiny_model)), base) if whole else LoraActor(base)
    actor.critic.init_from_preference_model(judge)
    ids = judge.renderer.prompt_ids(ranks.PROMPTS[0].chat)
    made = [
        Rollout(ranks.PROMPTS[0], ids, [3, 4, 257], "x", True),
        Rollout(ranks.PROMPTS[0], ids, [5, 6], "y", False),
    ]
    config = with_settings(CONFIG, num_minibatches=1, mode="full" if whole else "lora")
    trainer = PPOTrainer(actor, load_renderer(tiny_model), ranks.score, config)
    experience, first_forward = experience_of(actor, made, [1.0, 0.0], config)
    for rollout, values in zip(made, experience.values, strict=True):
        said = [ids + rollout.response_ids[:t] for t in range(len(rollout.response_ids))]
        assert values.tolist() == pytest.approx(judge.score(said), abs=1e-4)
    before = actor.critic.head.weight.detach().clone()
    trainer.optimize(experience, first_forward)
    assert not torch.equal(actor.critic.head.weight, before)
    assert torch.equal(judge.head.weight.expand_as(before) * judge.gain, before), (
        "the preference model keeps its own head"
    )


def test_the_critic_tells_kinds_of_prompts_apart(tiny_model: Path) -> None:
    """The same words are worth 1 to one kind and -1 to another, which no head on states alone can
    say.
    """
    actor = LoraActor(with_adapter(load_model(str(tiny_model)), POLICY, 4))
    kinds: list[Kind] = ["benign", "disallowed"]
    made = [
        Rollout(ranks.PROMPTS[0].model_copy(update={"kind": kind}), [3, 4], [5, 6], "x", True)
        for kind in kinds
    ]
    config = with_settings(CONFIG, num_minibatches=1, num_ppo_epochs=20, critic_learning_rate=2e-2)
    trainer = PPOTrainer(actor, load_renderer(tiny_model), ranks.score, config)
    for _ in range(10):
        experience, first_forward = experience_of(actor, made, [1.0, -1.0], config)
        trainer.optimize(experience, first_forward)
    assert [round(float(values.mean())) for values in experience.values] == [1, -1]
    explained = experience_metrics(experience)["explained_variance"]
    assert explained is not None
    assert explained > 0.8


def test_checkpoints_may_be_rare(tiny_model: Path, tmp_path: Path) -> None:
    """Every second of three updates, and the last: killed in the third, the run goes on from the
    second, bit for bit.
    """
    config = with_settings(CONFIG, num_updates=3, save_every=2)
    whole, again = full(tiny_model), full(tiny_model)
    history = trained(whole, tiny_model, tmp_path / "whole", config)
    calls: list[int] = []

    def killed(rollouts: Sequence[Rollout]) -> RewardTable:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ranks.score(rollouts)

    with pytest.raises(KeyboardInterrupt):
        trained(full(tiny_model), tiny_model, tmp_path / "cut", config, killed)
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()] == ["step-000002"]
    assert trained(again, tiny_model, tmp_path / "cut", config) == history
    assert all(map(torch.equal, whole.module.parameters(), again.module.parameters()))


def test_adapters_are_not_spread() -> None:
    with pytest.raises(ValueError, match="only full fine-tuning shards"):
        PPOConfig(shard=True)


@pytest.fixture(scope="module")
def pairwise(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two processes, each way."""
    folder = tmp_path_factory.mktemp("two")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        ranks.__file__,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(
        [*command, str(tiny_model), str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-12000:]
    return folder


@pytest.mark.parametrize("way", list(ranks.WAYS))
def test_two_processes_make_the_update_of_one(
    pairwise: Path, tiny_model: Path, tmp_path: Path, way: str
) -> None:
    """Same prompts, draws, minibatches, whitening, centring, KL, controller, ptx, clipping, steps:
    weights to float tolerance.

    Five minibatches of two replies, some of whose rewards nobody knows: a process may have no part
    of one. The pair whose weights are spread was stopped after an update, and went on.
    """
    ranks.one(way, tiny_model, tmp_path / "one")
    alone, pair = (
        load_file(folder / "weights.safetensors") for folder in (tmp_path / "one", pairwise / way)
    )
    assert alone.keys() == pair.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(pair[name], tensor, atol=2e-5, rtol=1e-3)
    history, *told = (
        json.loads(path.read_text())
        for path in (
            tmp_path / "one" / "history-0.json",
            pairwise / way / "history-0.json",
            pairwise / way / "history-1.json",
        )
    )
    assert told[0] == told[1], "both know the same"
    assert any(row["unscored"] for row in history)
    for mine, theirs in zip(history, told[0], strict=True):
        assert mine.keys() == theirs.keys()
        errors = {"ratio_error", "first_ratio_error"}
        assert {k: theirs[k] for k in mine.keys() - errors} == pytest.approx(
            {k: mine[k] for k in mine.keys() - errors}, abs=1e-4
        )
        assert theirs["first_ratio_error"] < 1e-5
    assert len((pairwise / way / "metrics.jsonl").read_text().splitlines()) == 2
