"""What each process of tests/test_actor.py's torchrun does: PPO on the tiny model in three ways, results by name of the way.

torchrun --nproc-per-node 2 tests/ranks.py MODEL FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import load_renderer
from cai.records import Prompt, chat_of
from cai.train.distributed import barrier, full_tensor, process_group, rank, world_size
from cai.train.ppo.actor import POLICY, FullActor, LoraActor
from cai.train.ppo.config import KLConfig, PPOConfig, PtxConfig
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.ppo.trainer import Learner, learner, ppo

CONFIG = PPOConfig(
    updates=2,
    prompts=5,
    replies=2,
    max_tokens=6,
    temperature=1.0,
    rank=4,
    learning_rate=1e-3,
    epochs=2,
    minibatches=5,
    ema=0.9,
    centre=True,
    kl=KLConfig(coef=0.1, target=1.0, horizon=50),
    ptx=PtxConfig(coef=0.1, batch=3),
)
PROMPTS = [Prompt(chat=chat_of(("user", "word " * (i + 1))), kind="benign" if i % 2 else "disallowed") for i in range(5)]
WAYS = {"lora": {}, "full": {"mode": "full"}, "shard": {"mode": "full", "shard": True}, "untied": {"mode": "full", "shard": True}}


def score(rollouts: Sequence[Rollout]) -> RewardTable:
    """The share of high bytes; of replies that begin with one in sixteen bytes, nobody knows the other part."""
    high = [sum(token > 128 for token in r.reply_ids) / len(r.reply_ids) for r in rollouts]
    return {"high": high, "moody": [None if r.reply_ids[0] % 16 == 3 else 0.5 for r in rollouts]}


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
    if way == "shard" and world_size() > 1:  # a first run ends after one update; another one, with weights of its own, goes on
        trained(way, model, folder, updates=1)
    it, history = trained(way, model, folder, updates=CONFIG.updates)
    weights = {
        f"{i}": full_tensor(p.detach()).clone()
        for i, p in enumerate([*it.actor.trainable_parameters(), *it.actor.critic.parameters()])
    }
    if rank() == 0:
        save_file(weights, folder / "weights.safetensors")
    (folder / f"history-{rank()}.json").write_text(json.dumps(history))


def trained(way: str, model: Path, folder: Path, updates: int) -> tuple[Learner, list[dict[str, Any]]]:
    config = PPOConfig.model_validate(CONFIG.model_dump() | WAYS[way] | {"updates": updates})
    base, reference, copy = (parted(load_model(str(model)), way == "untied") for _ in range(3))
    renderer = load_renderer(model)
    torch.manual_seed(0)
    if config.mode == "lora":
        actor: LoraActor | FullActor = LoraActor(with_adapter(base, POLICY, config.rank, config.layers))
    else:
        actor = FullActor(base, reference, copy if config.shard else None)
        if config.shard and world_size() > 1:
            actor.shard()
    texts = [(renderer.prompt_ids(p.chat), renderer.reply_ids("fine")) for p in PROMPTS]
    it = learner(actor, config)
    return it, ppo(it, renderer, PROMPTS, score, config, folder, seed=0, progress=lambda done, total: None, texts=texts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group():
        for name in WAYS:
            one(name, Path(sys.argv[1]), Path(sys.argv[2]) / name)
