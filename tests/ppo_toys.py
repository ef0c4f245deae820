"""Toys for tests of PPO: a small config, prompts, rewards, and a trainer on the tiny model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from cai.modeling.frozen_cache import FrozenCache
from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Kind, Prompt, chat_of
from cai.train.ppo.actor import POLICY, Actor, LoraActor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.experience import (
    Experience,
    RewardTerms,
    forward_models,
    make_experience,
    split_minibatches,
)
from cai.train.ppo.reward_table import ScoredRollouts
from cai.train.ppo.rollout import RewardTable, Rollout, batched_logprobs
from cai.train.ppo.trainer import PPOTrainer


def with_settings(config: PPOConfig, **settings: Any) -> PPOConfig:
    """The config with keys changed in whatever section has them; `kl` and `ptx` are sections."""
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


def word_prompts(count: int, kinds: Sequence[Kind | None] = (None,)) -> list[Prompt]:
    """Prompts of 1, 2, ... words, whose kinds take turns."""
    return [
        Prompt(chat=chat_of(("user", "word " * (i + 1))), kind=kinds[i % len(kinds)])
        for i in range(count)
    ]


PROMPTS = word_prompts(5)


def high_byte_shares(rollouts: Sequence[Rollout]) -> list[float | None]:
    """The share of tokens above 128 in each reply: a reward that can be learnt."""
    return [sum(token > 128 for token in r.response_ids) / len(r.response_ids) for r in rollouts]


def high_bytes(rollouts: Sequence[Rollout]) -> RewardTable:
    """A reward of two parts: the share of high bytes, and a constant."""
    return {"high": high_byte_shares(rollouts), "half": [0.5] * len(rollouts)}


def fine_tuning_texts(
    renderer: Renderer, prompts: Sequence[Prompt]
) -> list[tuple[list[int], list[int]]]:
    """(prompt, response) token ids of the response "fine" to each prompt."""
    return [(renderer.prompt_ids(p.chat), renderer.response_ids("fine")) for p in prompts]


def fresh_actor(tiny: Path, config: PPOConfig = CONFIG, seed: int = 0) -> LoraActor:
    torch.manual_seed(seed)
    base = with_adapter(
        load_model(str(tiny)), POLICY, config.lora_rank, config.num_trainable_layers
    )
    return LoraActor(base)


def fresh_trainer(
    tiny: Path,
    config: PPOConfig = CONFIG,
    reward_fn: Any = high_bytes,
    *,
    seed: int = 0,
    weight_seed: int = 0,
) -> PPOTrainer:
    """A trainer on the tiny model; `weight_seed` determines its initial weights."""
    actor = fresh_actor(tiny, config, weight_seed)
    return PPOTrainer(actor, load_renderer(tiny), reward_fn, config, seed)


def train(
    trainer: PPOTrainer, folder: Path, prompts: Sequence[Prompt] = PROMPTS
) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    return trainer.train(prompts, folder)


def ratio_errors(trainer: PPOTrainer) -> list[float]:
    """Grows by the ratio error of each minibatch that the trainer learns from."""
    taken: list[float] = []
    learn = trainer.learner._train_minibatch

    def record(*args: Any) -> dict[str, Any]:
        metrics = learn(*args)
        taken.append(metrics["ratio_error"])
        return metrics

    trainer.learner._train_minibatch = record  # type: ignore[method-assign]
    return taken


def copied_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def gradient_norm(parameters: Iterable[torch.nn.Parameter]) -> float:
    return float(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm())


def literal_logprobs(
    model: Any, rollout: Rollout, temperature: float = 1.0, ignored_token: int | None = None
) -> torch.Tensor:
    """log P of each response token (T,), nats: one unpadded forward pass of a plain model.

    Args:
        ignored_token: Masked out of the attention wherever it stands.
    """
    ids_1T = torch.tensor([rollout.prompt_ids + rollout.response_ids])
    mask_1T = (ids_1T != ignored_token) if ignored_token is not None else torch.ones_like(ids_1T)
    logits_1TV = model(ids_1T, attention_mask=mask_1T.long()).logits
    logits_TV = logits_1TV[0, len(rollout.prompt_ids) - 1 : -1] / temperature
    response_T1 = torch.tensor(rollout.response_ids)[:, None]
    logp_T: torch.Tensor = logits_TV.log_softmax(-1).gather(-1, response_T1).squeeze(-1)
    return logp_T


def logprobs_and_states(
    actor: Actor,
    adapter: str | None,
    rollouts: Sequence[Rollout],
    temperature: float = 1.0,
    size: int = 3,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """`batched_logprobs` of the policy, or of the reference if `adapter` is None.

    A batch has `size` neighbours.
    """
    indices = range(len(rollouts))
    batches = [(indices[i : i + size], FrozenCache([])) for i in range(0, len(rollouts), size)]
    model = actor.policy if adapter else actor.reference
    logps, states = batched_logprobs(model, rollouts, batches, temperature)
    return [logps[i] for i in indices], [states[i] for i in indices]


def rollout_of(ids: list[int], renderer: Renderer, prompt: Prompt = PROMPTS[0]) -> Rollout:
    """The rollout whose response has these token ids."""
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
    """Experience of rollouts with these rewards, and its first forward pass.

    Args:
        minibatches: Indices of the rollouts of each; None: one minibatch of all.
    """
    parts = minibatches or [list(range(len(rollouts)))]
    scored = ScoredRollouts(rollouts, {}, list(range(len(rollouts))), rewards)
    split = split_minibatches(rollouts, parts, actor, config)
    outputs = forward_models(actor, rollouts, split, config.rollout.temperature, train_policy=True)
    coef = config.kl.coef if kl_coef is None else kl_coef
    experience = make_experience(scored, split, outputs, config.advantage, RewardTerms(coef))
    return experience, outputs.first_logp_N
