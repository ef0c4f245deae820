"""The training rows of `gpu.py`: fine-tuning, the preference model and PPO."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_models import Bench, save_tokenizer


class StepTimer:
    """Seconds of a training's steps after the first, as its `progress`."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.ends: list[float] = []

    def progress(self, done: int, total: int) -> None:
        self.bench.wait()
        self.ends.append(time.perf_counter())

    def tokens_per_s(self, tokens_per_step: int) -> float:
        seconds = self.ends[-1] - self.ends[0]
        return round(tokens_per_step * (len(self.ends) - 1) / seconds, 1)


def _estimated_gib(folder: Path, stage: str, **settings: Any) -> float:
    from cai.modeling.memory_estimate import model_shape
    from cai.pipeline.config import Run
    from cai.pipeline.memory_plan import stage_memories

    run = Run(name="x", constitution="x", prompts=("x",), **settings)
    stages = {memory.stage: memory for memory in stage_memories(run, model_shape(str(folder)))}
    return round(stages[stage].total / 2**30, 2)


def sft(bench: Bench, mode: str) -> dict[str, Any]:
    """Steps of 8 rows of about 512 tokens."""
    import torch

    from cai.records import chat_of
    from cai.train.sft import Example, SFTConfig, tokenize
    from cai.train.sft import sft as train

    batch, length, steps = (2, 64, 3) if bench.dry else (8, 512, 6)
    config = SFTConfig.model_validate(
        {"mode": mode, "batch_size": batch, "max_length": length, "epochs": 1}
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench.make(torch.bfloat16, is_plain=True).save_pretrained(folder / "base")
        save_tokenizer(folder / "base")
        bench.reset()
        examples = [
            Example(chat_of(("user", "a")), f"{i:02d}" + "x" * (length - 24))
            for i in range(batch * steps)
        ]
        rows, _ = tokenize(bench.renderer, examples[:1], length)
        timer = StepTimer(bench)
        train(
            str(folder / "base"),
            examples,
            config,
            folder / "out",
            seed=0,
            progress=timer.progress,
        )
        estimate = _estimated_gib(folder / "base", "sft", sft=config)
    tokens = batch * len(rows[0]["input_ids"])
    return {"tokens_per_s": timer.tokens_per_s(tokens), "estimate_gib": estimate}


def preference(bench: Bench) -> dict[str, Any]:
    """Steps of 8 pairs of rows of 384 tokens; LoRA."""
    import torch

    from cai.modeling.lora import with_adapter
    from cai.reward.preference_model import ADAPTER, PreferenceModel
    from cai.train.comparison import Comparison
    from cai.train.preference import RewardConfig, train

    batch, length, steps = (2, 32, 3) if bench.dry else (8, 384, 6)
    config = RewardConfig(batch_size=batch)
    base = _frozen_base(bench)
    model = PreferenceModel(with_adapter(base, ADAPTER, config.lora_rank), bench.renderer)
    rows = [[(i + k) % 250 for k in range(length)] for i in range(2 * batch * steps)]
    pairs = [Comparison(str(i), rows[2 * i], rows[2 * i + 1], 0.9) for i in range(batch * steps)]
    timer = StepTimer(bench)
    torch.manual_seed(0)
    train(model, pairs, config, seed=0, progress=timer.progress)
    with tempfile.TemporaryDirectory() as folder:
        base.config.save_pretrained(folder)
        pair = {"max_tokens": length - 256} if not bench.dry else {}
        estimate = _estimated_gib(Path(folder), "reward", reward=config, pair=pair)
    return {"tokens_per_s": timer.tokens_per_s(2 * batch * length), "estimate_gib": estimate}


def ppo(bench: Bench, mode: str) -> dict[str, Any]:
    """Updates of 16 prompts with 4 replies each of 48 tokens, and a reward that costs nothing."""
    import torch

    from cai.records import Prompt, chat_of
    from cai.train.ppo.config import PPOConfig
    from cai.train.ppo.trainer import PPOTrainer

    prompts_per_update, responses, length = (2, 2, 4) if bench.dry else (16, 4, 48)
    config = PPOConfig.model_validate(
        {
            "num_updates": bench.updates,
            "mode": mode,
            "save_every": bench.updates,
            "rollout": {
                "prompts_per_update": prompts_per_update,
                "responses_per_prompt": responses,
                "max_new_tokens": length,
            },
            "optimization": {
                "num_minibatches": 1,
                "micro_batch_size": prompts_per_update * responses,
            },
        }
    )
    torch.manual_seed(0)
    trainer = PPOTrainer(_actor(bench, config), bench.renderer, _reward, config)
    batch = [
        Prompt(chat=chat_of(("user", f"Explain how to do task number {i} at home.")))
        for i in range(prompts_per_update)
    ]
    ends: list[float] = []

    def end_update(update: int, metrics: Any) -> None:
        bench.wait()
        ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer.train(batch, Path(folder), on_update=end_update)
    replies = prompts_per_update * responses * (len(ends) - 1)
    return {
        "replies_per_s": round(replies / (ends[-1] - ends[0]), 2),
        "micro_batch": trainer.learner.micro_batch_size,
    }


def _reward(rollouts: Any) -> Any:
    return {"low": [sum(t < 128 for t in r.response_ids) / len(r.response_ids) for r in rollouts]}


def _actor(bench: Bench, config: Any) -> Any:
    import torch

    from cai.modeling.lora import with_adapter
    from cai.modeling.precision import matmul_dtype
    from cai.train.ppo.actor import POLICY, FullActor, LoraActor

    copy = bench.make(matmul_dtype()) if matmul_dtype() != torch.float32 else None
    base = _frozen_base(bench)
    if config.mode == "lora":
        return LoraActor(with_adapter(base, POLICY, config.lora_rank), copy)
    return FullActor(bench.make(torch.float32), base, copy)


def _frozen_base(bench: Bench) -> Any:
    """As `loading.load_frozen` has it."""
    import torch

    from cai.modeling.loading import shorten_matrices
    from cai.modeling.precision import frozen_dtype

    base = bench.make(torch.float32)
    if frozen_dtype() != torch.float32:
        shorten_matrices(base, frozen_dtype())
    return base
