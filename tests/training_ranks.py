"""Fine-tuning and the preference model on the tiny model: the work of each process of
test_several_processes.py.

Results are in folders of their names. In the first attempt the second process kills itself after
fine-tuning's first epoch; the second attempt goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from interruptions import Killed, killed_at, quiet
from preference_toys import HELLO

from cai.modeling.tokenization import load_renderer
from cai.pipeline.preference_model import CardFacts, fit_preference_model, fresh_model
from cai.progress import Progress
from cai.records import chat_of
from cai.reward.preference_model import PreferenceModel
from cai.train.comparison import Comparison
from cai.train.distributed import (
    full_tensor,
    process_group,
    rank,
    single_process_env,
    world_size,
)
from cai.train.pair_loss import pair_loss
from cai.train.preference import RewardConfig, trained_parameters
from cai.train.sft import Example, SFTConfig, sft, tokenize
from cai.train.sft_trainer import build_trainer
from cai.train.sharding import sum_gradients

EXAMPLES = [
    Example(chat_of(("user", f"say {word}")), word)
    for word in ("red", "a rather long word", "blue", "green", "grey", "pink", "gold")
]
"""Seven in threes: the second process has no row in the last step of an epoch."""
SHARDED = {"mode": "full", "shard": True, "gradient_checkpointing": True}
SFT_CONFIG = {"lora_rank": 4, "learning_rate": 1e-3, "epochs": 2, "batch_size": 3, "max_length": 64}
SFT_MODES = {"sft-shard": SHARDED, "sft-lora": {}, "sft-full": {"mode": "full"}}
REWARD_CONFIG = {
    "lora_rank": 4,
    "learning_rate": 1e-3,
    "epochs": 2,
    "batch_size": 4,
    "held_out": 0.4,
    "patience": 2,
    "save_every": 2,
}
REWARD_MODES = {"reward-lora": {}, "reward-shard": SHARDED | {"learning_rate": 1e-4}}


def comparisons(model: PreferenceModel) -> list[Comparison]:
    """Six pairs of four replies to one prompt, one pair each of eleven prompts, and two equal
    replies, which are one row.
    """
    rows = [model.rows(HELLO, "z" * (i + 1)) for i in range(4)]
    ranked = [
        Comparison("many", rows[i], rows[j], 0.3 + 0.1 * j)
        for i in range(4)
        for j in range(i + 1, 4)
    ]
    chats = [chat_of(("user", f"question {i}")) for i in range(11)]
    single = [
        Comparison(f"p{i}", model.rows(chat, "z" * (i + 1)), model.rows(chat, "a"), 0.9)
        for i, chat in enumerate(chats)
    ]
    return [*ranked, *single, Comparison("equal", rows[0], rows[0], 0.7)]


def fine_tune(model: Path, folder: Path, mode: str, progress: Progress) -> dict[str, Any]:
    config = SFTConfig.model_validate(SFT_CONFIG | SFT_MODES[mode])
    return sft(str(model), EXAMPLES, config, folder, seed=3, progress=progress)


def fit(model: Path, folder: Path, mode: str, progress: Progress) -> dict[str, Any]:
    config = RewardConfig.model_validate(REWARD_CONFIG | REWARD_MODES[mode])
    untrained = fresh_model(str(model), config, 0)
    _, scores = fit_preference_model(
        untrained,
        comparisons(untrained),
        config,
        folder,
        seed=0,
        progress=progress,
        facts=CardFacts("toy", f"local:{model}", None),
    )
    first, second = untrained.score([untrained.rows(HELLO, reply) for reply in ("z", "a")])
    return {score.metric: score.mean for score in scores} | {"first": first, "second": second}


def sft_gradient_norm(model: Path, folder: Path, mode: str) -> float:
    """Of the first step, over all examples. Adam's steps do not tell a factor of it."""
    one_step = SFT_CONFIG | SFT_MODES[mode] | {"epochs": 1, "batch_size": len(EXAMPLES)}
    rows, _ = tokenize(load_renderer(model), EXAMPLES, 64)
    config = SFTConfig.model_validate(one_step)
    with single_process_env():
        trainer = build_trainer(str(model), rows, config, folder / f"norm-{mode}", 3, quiet)
        trainer.train()
    return float(trainer.state.log_history[0]["grad_norm"])


def reward_gradient_norms(model: Path, mode: str) -> list[float]:
    """Of the loss of all pairs: the head's, and the adapter's or the model's."""
    config = RewardConfig.model_validate(REWARD_CONFIG | REWARD_MODES[mode])
    untrained = fresh_model(str(model), config, 0)
    groups = trained_parameters(untrained)
    pair_loss(untrained, comparisons(untrained)).backward()  # type: ignore[no-untyped-call]
    sum_gradients(p for group in groups for p in group)
    gradients = [[p.grad for p in group if p.grad is not None] for group in groups]
    return [float(full_tensor(torch.nn.utils.get_total_norm(group))) for group in gradients]


def kill_second_process(done: int, total: int) -> None:
    """In the first attempt, SIGKILL in the first step of the second epoch."""
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and done == 4 and rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def train_all(model: Path, folder: Path) -> None:
    """Train in each mode; what each process knows of it is `results-RANK.json`."""
    steps: dict[str, list[int]] = {}
    results: dict[str, Any] = {}
    norms: dict[str, list[float]] = {}
    for mode in SFT_MODES:
        taken = steps.setdefault(mode, [])

        def progress(done: int, total: int, mode: str = mode, taken: list[int] = taken) -> None:
            taken.append(done)
            if mode == "sft-shard" and world_size() > 1:
                kill_second_process(done, total)

        results[mode] = fine_tune(model, folder / mode, mode, progress)
        norms[mode] = [sft_gradient_norm(model, folder, mode)]
    for mode in REWARD_MODES:
        if world_size() > 1:  # an uninterrupted process has to give the same
            with contextlib.suppress(Killed):
                fit(model, folder / mode, mode, killed_at(4, quiet))
        taken = steps.setdefault(mode, [])
        append = lambda done, _, taken=taken: taken.append(done)  # noqa: E731
        results[mode] = fit(model, folder / mode, mode, append)
        norms[mode] = reward_gradient_norms(model, mode)
    text = json.dumps({"results": results, "steps": steps, "norms": norms})
    (folder / f"results-{rank()}.json").write_text(text, encoding="utf-8")


def train_together(model: Path, folder: Path) -> None:
    """`train_all` with the other process."""
    torch.set_num_threads(1)
    with process_group():
        train_all(model, folder)
