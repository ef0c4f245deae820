"""Toys for tests of PPO: a small config, five prompts, and a trainer on the tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cai.modeling.frozen_cache import FrozenCache
from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Prompt, chat_of
from cai.train.ppo.actor import POLICY, Actor, LoraActor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.experience import Experience, forward_models, make_experience, split_minibatches
from cai.train.ppo.reward_table import ScoredRollouts
from cai.train.ppo.rollout import RewardTable, Rollout, batched_logprobs
from cai.train.ppo.trainer import PPOTrainer


def with_settings(config: PPOConfig, **settings: Any) -> PPOConfig:
    """The config with some keys changed, whatever section they are in; `kl` and `ptx` are whole
    sections.
    """
    data = config.model_dump()
    for key, value in settings.items():
        sections = [part for part in data.values() if isinstance(part, dict) and key in part]
        (sections[0] if sections and key not in data else data)[key] = value
    return PPOConfig.model_validate(data)


CONFIG = with_settings(
    PPOConfig(),
    num_updates=2,
    prompts_per_update=4,
    responses_per_prompt=2,
    max_new_tokens=6,
    temperature=1.0,
    lora_rank=4,
    num_ppo_epochs=2,
    num_minibatches=4,
)
PROMPTS = [Prompt(chat=chat_of(("user", "word " * (i + 1)))) for i in range(5)]


def high_bytes(rollouts: Sequence[Rollout]) -> RewardTable:
    """Something to learn: the share of tokens above 128; and a part that is always a half."""
    high = [sum(t > 128 for t in r.response_ids) / len(r.response_ids) for r in rollouts]
    return {"high": high, "half": [0.5] * len(rollouts)}


def fresh_actor(tiny: Path, config: PPOConfig = CONFIG, seed: int = 0) -> LoraActor:
    torch.manual_seed(seed)
    base = with_adapter(
        load_model(str(tiny)), POLICY, config.lora_rank, config.num_trainable_layers
    )
    return LoraActor(base)


def fresh(
    tiny: Path,
    config: PPOConfig = CONFIG,
    reward_fn: Any = high_bytes,
    *,
    seed: int = 0,
    weight_seed: int = 0,
) -> PPOTrainer:
    """A trainer on the tiny model; `weight_seed` decides its first weights."""
    actor = fresh_actor(tiny, config, weight_seed)
    return PPOTrainer(actor, load_renderer(tiny), reward_fn, config, seed)


def run(
    trainer: PPOTrainer, folder: Path, prompts: Sequence[Prompt] = PROMPTS
) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    return trainer.train(prompts, folder)


def weights(trainer: PPOTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.actor.module.named_parameters()}


def readings(
    actor: Actor,
    adapter: str | None,
    rollouts: Sequence[Rollout],
    temperature: float = 1.0,
    size: int = 3,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """`batched_logprobs` of the policy or (None) the reference, in batches of `size` neighbours."""
    indices = range(len(rollouts))
    batches = [(indices[i : i + size], FrozenCache([])) for i in range(0, len(rollouts), size)]
    model = actor.policy if adapter else actor.reference
    logps, states = batched_logprobs(model, rollouts, batches, temperature)
    return [logps[i] for i in indices], [states[i] for i in indices]


def reply(ids: list[int], renderer: Renderer, prompt: Prompt = PROMPTS[0]) -> Rollout:
    finished = ids[-1] == renderer.eos_token_id
    return Rollout(prompt, renderer.prompt_ids(prompt.chat), ids, renderer.text(ids), finished)


def experience_of(
    actor: Actor,
    rollouts: list[Rollout],
    rewards: list[float],
    config: PPOConfig,
    *,
    minibatches: list[list[int]] | None = None,
    kl_coef: float | None = None,
) -> tuple[Experience, torch.Tensor]:
    """Experience of rollouts with these rewards, and its first forward pass; one minibatch unless
    told.
    """
    parts = minibatches or [list(range(len(rollouts)))]
    scored = ScoredRollouts(rollouts, {}, list(range(len(rollouts))), rewards)
    split = split_minibatches(rollouts, parts, actor, config)
    outputs = forward_models(actor, rollouts, split, config.rollout.temperature, train_policy=True)
    coef = config.kl.coef if kl_coef is None else kl_coef
    experience = make_experience(scored, split, outputs, config.advantage, coef)
    return experience, outputs.first_logp_N
