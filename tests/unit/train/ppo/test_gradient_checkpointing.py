"""PPO with activations that are computed again: the same gradients and updates, and reading and
sampling as without.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import ppo_toys
import pytest
import torch
from canned_runs import open_toy_run
from ppo_toys import fine_tuning_texts, high_bytes, with_settings, word_prompts

from cai.artifacts import PROMPTS as PROMPTS_FILE
from cai.artifacts import REWARD, SFT
from cai.modeling import activation_checkpointing
from cai.modeling.frozen_cache import blocks_of
from cai.modeling.lora import adapter_parameters
from cai.modeling.tokenization import load_renderer
from cai.pipeline.training_stages import _ppo_provenance as ppo_provenance
from cai.reward.preference_model import ADAPTER, PreferenceModel
from cai.train.ppo.actor import Actor, build_actor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.rollout import RewardTable, Rollout, RolloutRequest
from cai.train.ppo.trainer import PPOTrainer
from cai.train.preference import RewardConfig

PROMPTS = word_prompts(5)
CONFIG = with_settings(
    ppo_toys.CONFIG,
    learning_rate=1e-3,
    num_minibatches=2,
    prompts_per_update=4,
    kl={"coef": 0.1},
    ptx={"coef": 0.1, "batch_size": 2},
)
Mode = Literal["lora", "full"]


def trainer_of(tiny: Path, config: PPOConfig) -> PPOTrainer:
    """A preference model adds to the reward: with `lora` by a second adapter on the policy's base,
    which differs from the policy's in every weight.
    """
    torch.manual_seed(0)
    actor, base = build_actor(config, str(tiny), RewardConfig(lora_rank=4))
    assert base is not None
    judge = PreferenceModel(base, load_renderer(tiny), rank=4)
    with torch.no_grad():
        for parameter in adapter_parameters(base, ADAPTER):
            parameter.normal_(0, 0.1)

    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        return high_bytes(rollouts) | {"pm": list(judge.score([r.ids for r in rollouts]))}

    return PPOTrainer(actor, load_renderer(tiny), score, config)


def train(trainer: PPOTrainer, folder: Path) -> list[dict[str, Any]]:
    texts = fine_tuning_texts(trainer.renderer, PROMPTS)
    return trainer.train(PROMPTS, folder, texts)


def settings(mode: Mode, layers: int | None, **more: Any) -> list[PPOConfig]:
    """Without and with recomputed activations."""
    return [
        with_settings(
            CONFIG, mode=mode, num_trainable_layers=layers, gradient_checkpointing=again, **more
        )
        for again in (False, True)
    ]


def assert_same_policy(actor: Actor, expected: Actor) -> None:
    parameters = (actor.trainable_parameters(), expected.trainable_parameters())
    for parameter, other in zip(*parameters, strict=True):
        torch.testing.assert_close(parameter, other, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize(("mode", "layers"), [("lora", None), ("lora", 1), ("full", None)])
def test_an_update_is_that_of_kept_activations(
    tiny_model: Path, tmp_path: Path, mode: Mode, layers: int | None
) -> None:
    """Two updates: metrics, and weights to float tolerance. A run that was stopped after the first
    goes on with the other setting.
    """
    kept_config, config = settings(mode, layers)
    kept, again = trainer_of(tiny_model, kept_config), trainer_of(tiny_model, config)
    history = train(kept, tmp_path / "kept")
    close = [pytest.approx(row, abs=1e-4) for row in history]
    assert train(again, tmp_path / "again") == close
    assert_same_policy(again.actor, kept.actor)
    first = with_settings(kept_config, num_updates=1)
    train(trainer_of(tiny_model, first), tmp_path / "moved")
    moved = trainer_of(tiny_model, config)
    assert train(moved, tmp_path / "moved") == close
    assert_same_policy(moved.actor, kept.actor)


@pytest.mark.parametrize(("mode", "layers"), [("lora", None), ("lora", 1), ("full", None)])
def test_gradients_are_those_of_kept_activations(
    tiny_model: Path, mode: Mode, layers: int | None
) -> None:
    """Of one minibatch, before Adam, whose steps do not tell a factor of them; nothing is computed
    again where nothing learns.
    """
    gradients, calls = [], []
    for config in settings(mode, layers):
        trainer = trainer_of(tiny_model, config)
        actor, counts = trainer.actor, [0]
        model: Any = actor.module.model
        block: Any = blocks_of(model.get_base_model() if mode == "lora" else model)[-1]

        def count(*_: Any, counts: list[int] = counts) -> None:
            counts[0] += 1

        block.input_layernorm.register_forward_hook(count)
        ids = trainer.renderer.prompt_ids(PROMPTS[0].chat)
        rollouts = [
            Rollout(PROMPTS[0], ids, [3, 4, 257], "x", True),
            Rollout(PROMPTS[0], ids, [5, 6], "y", False),
        ]
        experience, first_logp_N = ppo_toys.experience_of(actor, rollouts, [1.0, -1.0], config)
        read = counts[0]
        trainer.learner._accumulate(
            experience, experience.minibatches[0].micro_batches, first_logp_N, []
        )
        gradients.append([p.grad for p in actor.trainable_parameters()])
        calls.append((read, counts[0]))
    (read, total), (read_again, total_again) = calls
    assert total == read, "the first forward pass is that of reading"
    assert total_again == read_again + 1
    for kept, again in zip(*gradients, strict=True):
        assert kept is not None
        assert again is not None
        torch.testing.assert_close(again, kept, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_sampling_and_reading_compute_nothing_again(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """The policy samples, the reference and the preference model read: none goes through torch's
    checkpoint, which would save the state of the random generators at every token.
    """
    trainer = trainer_of(tiny_model, settings(mode, None)[1])

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pass without gradients was to be computed again")

    monkeypatch.setattr(activation_checkpointing, "checkpoint", refuse)
    prompt = PROMPTS[0]
    requests = [RolloutRequest(prompt, seed) for seed in range(2)]
    rollouts = trainer.environment.sample(requests, CONFIG.rollout)
    ppo_toys.logprobs_and_states(trainer.actor, None, rollouts)
    ppo_toys.logprobs_and_states(trainer.actor, "policy", rollouts)


def test_a_run_may_move_to_another_computer(tmp_path: Path) -> None:
    """What fits its memory is not what decides the policy, of which the manifest speaks."""
    records = []
    for number, line in enumerate(
        ("", ", shard: true, gradient_checkpointing: true, save_every: 9")
    ):
        (folder := tmp_path / str(number)).mkdir()
        ctx = open_toy_run(folder, f"ppo: {{mode: full{line}}}\n")
        for name in (PROMPTS_FILE, SFT, REWARD):
            ctx.path(name).touch()
        records.append(ppo_provenance(ctx))
    assert records[0] == records[1]
    assert records[0] != ppo_provenance(open_toy_run(tmp_path / "0", "ppo: {mode: lora}\n"))
