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
from cai.train.ppo.actor import POLICY, LoraActor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.rollout import RewardTable, Rollout, batched_logprobs
from cai.train.ppo.trainer import Learner, learner, ppo

CONFIG = PPOConfig(updates=2, prompts=4, replies=2, max_tokens=6, temperature=1.0, rank=4, epochs=2, minibatches=4)
PROMPTS = [Prompt(chat=chat_of(("user", "word " * (i + 1)))) for i in range(5)]
quiet = lambda done, total: None  # noqa: E731


def fresh(tiny: Path, config: PPOConfig = CONFIG, seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    return learner(LoraActor(with_adapter(load_model(str(tiny)), POLICY, config.rank, config.layers)), config)


def high_bytes(rollouts: Sequence[Rollout]) -> RewardTable:
    """Something to learn: the share of drawn tokens with a number above 128; and a part that is always a half."""
    return {"high": [sum(t > 128 for t in r.reply_ids) / len(r.reply_ids) for r in rollouts], "half": [0.5] * len(rollouts)}


def run(it: Learner, tiny: Path, folder: Path, config: PPOConfig = CONFIG, score: Any = high_bytes, seed: int = 0) -> Any:
    folder.mkdir(exist_ok=True)
    return ppo(it, load_renderer(tiny), PROMPTS, score, config, folder, seed=seed, progress=quiet)


def weights(it: Learner) -> dict[str, torch.Tensor]:
    own = {f"model.{k}": p.detach().clone() for k, p in it.actor.model.named_parameters()}
    return own | {f"critic.{k}": p.detach().clone() for k, p in it.actor.critic.named_parameters()}


def readings(
    it: Learner, adapter: str | None, rollouts: Sequence[Rollout], temperature: float = 1.0, size: int = 3
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """`batched_logprobs`, in batches of `size` neighbours padded with the tiny model's end token."""
    batches = [list(range(i, min(i + size, len(rollouts)))) for i in range(0, len(rollouts), size)]
    voice = it.actor.policy if adapter else it.actor.reference
    logps, states = batched_logprobs(voice, rollouts, batches, [FrozenCache([]) for _ in batches], 257, temperature)
    return [logps[i] for i in range(len(rollouts))], [states[i] for i in range(len(rollouts))]


def reply(ids: list[int], renderer: Renderer, prompt: Prompt = PROMPTS[0]) -> Rollout:
    return Rollout(prompt, renderer.prompt_ids(prompt.chat), ids, renderer.text(ids), ids[-1] == renderer.stop_id)
