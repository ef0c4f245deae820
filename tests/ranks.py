"""What each process of tests/unit/train/ppo/test_actor.py's torchrun does: PPO on the tiny model in
three ways, results by name of the way.

torchrun --nproc-per-node 2 tests/ranks.py MODEL FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ppo_toys import with_settings
from safetensors.torch import save_file
from transformers import PreTrainedModel

from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import load_renderer
from cai.records import Prompt, chat_of
from cai.train.distributed import (
    barrier,
    exit_process,
    full_tensor,
    process_group,
    rank,
    world_size,
)
from cai.train.ppo.actor import POLICY, FullActor, LoraActor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.ppo.trainer import PPOTrainer

CONFIG = with_settings(
    PPOConfig(),
    num_updates=2,
    prompts_per_update=5,
    responses_per_prompt=2,
    max_new_tokens=6,
    temperature=1.0,
    lora_rank=4,
    learning_rate=1e-3,
    num_ppo_epochs=2,
    num_minibatches=5,
    ema_decay=0.9,
    center_by_kind=True,
    kl={"coef": 0.1, "target": 1.0, "horizon": 50},
    ptx={"coef": 0.1, "batch_size": 3},
)
PROMPTS = [
    Prompt(chat=chat_of(("user", "word " * (i + 1))), kind="benign" if i % 2 else "disallowed")
    for i in range(5)
]
WAYS = {
    "lora": {},
    "full": {"mode": "full"},
    "shard": {"mode": "full", "shard": True},
    "untied": {"mode": "full", "shard": True},
}


def score(rollouts: Sequence[Rollout]) -> RewardTable:
    """The share of high bytes; of replies that begin with one in sixteen bytes, nobody knows the
    other part.
    """
    high = [sum(token > 128 for token in r.response_ids) / len(r.response_ids) for r in rollouts]
    return {"high": high, "moody": [None if r.response_ids[0] % 16 == 3 else 0.5 for r in rollouts]}


def parted(model: PreTrainedModel, untied: bool) -> PreTrainedModel:
    """The model, with a head of its own where that is asked for."""
    if untied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def one(way: str, model: Path, folder: Path) -> None:
    """Train; leave the policy's weights, the critic's, and the metrics in `folder`."""
    if rank() == 0:
        folder.mkdir()
    barrier()
    if (
        way == "shard" and world_size() > 1
    ):  # a first run ends after one update; another one, with weights of its own, goes on
        trained(way, model, folder, 1)
    trainer, history = trained(way, model, folder, CONFIG.num_updates)
    weights = {
        f"{i}": full_tensor(p.detach()).clone()
        for i, p in enumerate(
            [*trainer.actor.trainable_parameters(), *trainer.actor.critic.parameters()]
        )
    }
    if rank() == 0:
        save_file(weights, folder / "weights.safetensors")
    (folder / f"history-{rank()}.json").write_text(json.dumps(history))


def trained(
    way: str, model: Path, folder: Path, num_updates: int
) -> tuple[PPOTrainer, list[dict[str, Any]]]:
    config = with_settings(CONFIG, num_updates=num_updates, **WAYS[way])
    base, reference, copy = (parted(load_model(str(model)), way == "untied") for _ in range(3))
    renderer = load_renderer(model)
    torch.manual_seed(0)
    if config.mode == "lora":
        actor: LoraActor | FullActor = LoraActor(with_adapter(base, POLICY, config.lora_rank))
    else:
        actor = FullActor(base, reference, copy if config.shard else None)
        if config.shard and world_size() > 1:
            actor.shard()
    texts = [(renderer.prompt_ids(p.chat), renderer.response_ids("fine")) for p in PROMPTS]
    trainer = PPOTrainer(actor, renderer, score, config)
    return trainer, trainer.train(PROMPTS, folder, texts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group():
        for name in WAYS:
            one(name, Path(sys.argv[1]), Path(sys.argv[2]) / name)
    exit_process(0)
