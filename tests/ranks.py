"""PPO on the tiny model in four modes: the work of each process of test_actor.py.

The results of a mode are in the folder of its name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ppo_toys
import torch
from ppo_toys import fine_tuning_texts, high_byte_shares, with_settings, word_prompts
from safetensors.torch import save_file
from transformers import PreTrainedModel

from cai.modeling.activation_checkpointing import checkpoint_blocks
from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import load_renderer
from cai.train.distributed import (
    barrier,
    full_tensor,
    process_group,
    rank,
    world_size,
)
from cai.train.ppo.actor import POLICY, FullActor, LoraActor
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.ppo.trainer import PPOTrainer

CONFIG = with_settings(
    ppo_toys.CONFIG,
    prompts_per_update=5,
    learning_rate=1e-3,
    num_minibatches=5,
    ema_decay=0.9,
    center_by_kind=True,
    kl={"coef": 0.1, "target": 1.0, "horizon": 50},
    ptx={"coef": 0.1, "batch_size": 3},
)
PROMPTS = word_prompts(5, ("disallowed", "benign"))
MODES = {
    "lora": {},
    "full": {"mode": "full"},
    "shard": {"mode": "full", "shard": True, "gradient_checkpointing": True},
    "untied": {"mode": "full", "shard": True},
}


def score(rollouts: Sequence[Rollout]) -> RewardTable:
    """The share of high bytes, and a part that is unknown for one in sixteen first bytes."""
    unreliable = [None if r.response_ids[0] % 16 == 3 else 0.5 for r in rollouts]
    return {"high": high_byte_shares(rollouts), "unreliable": unreliable}


def untie(model: PreTrainedModel) -> None:
    """Give the model an LM head that is not its embedding."""
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())


def train_and_save(mode: str, model: Path, folder: Path) -> None:
    """Train; write the weights of policy and critic, and the metrics, to `folder`.

    Sharded weights are trained by two runs: the first ends after one update, the second resumes it
    with other initial weights.
    """
    if rank() == 0:
        folder.mkdir()
    barrier()
    if mode == "shard" and world_size() > 1:
        train(mode, model, folder, 1)
    trainer, history = train(mode, model, folder, CONFIG.num_updates)
    parameters = [*trainer.actor.trainable_parameters(), *trainer.actor.critic.parameters()]
    weights = {str(i): full_tensor(p.detach()).clone() for i, p in enumerate(parameters)}
    if rank() == 0:
        save_file(weights, folder / "weights.safetensors")
    (folder / f"history-{rank()}.json").write_text(json.dumps(history))


def train(
    mode: str, model: Path, folder: Path, num_updates: int
) -> tuple[PPOTrainer, list[dict[str, Any]]]:
    config = with_settings(CONFIG, num_updates=num_updates, **MODES[mode])
    base, reference, copy = (load_model(str(model)) for _ in range(3))
    if config.gradient_checkpointing and world_size() > 1:  # one process keeps the activations
        checkpoint_blocks(base)
    if mode == "untied":
        for loaded in (base, reference, copy):
            untie(loaded)
    renderer = load_renderer(model)
    torch.manual_seed(0)
    if config.mode == "lora":
        actor: LoraActor | FullActor = LoraActor(with_adapter(base, POLICY, config.lora_rank))
    else:
        actor = FullActor(base, reference, copy if config.shard else None)
        if config.shard and world_size() > 1:
            actor.shard()
    trainer = PPOTrainer(actor, renderer, score, config)
    return trainer, trainer.train(PROMPTS, folder, fine_tuning_texts(renderer, PROMPTS))


def train_modes(model: Path, folder: Path) -> None:
    """In each mode, together with the other process."""
    torch.set_num_threads(1)
    with process_group():
        for name in MODES:
            train_and_save(name, model, folder / name)
