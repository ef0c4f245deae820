"""Speed of the PPO loop: seconds an update, replies a second, peak resident memory, time by phase.

    python benchmarks/ppo_speed.py [--mode lora|full] [--peer PYTHON SCRIPT]

SmolLM2-135M, 16 prompts an update, 32 new tokens, one pass, 4 updates of which the first is left
out. The reward is a preference model of the same size, as the peer's is. Beside the seconds of each
phase is the least that this machine could take for it: see `phase_limits`.

With `--peer`, the loop is compared with another on the same machine. PYTHON is the interpreter of
an environment with TRL 1.12, the last that had PPO. SCRIPT runs its PPOTrainer with the same sizes,
and prints a JSON line with `episodes_per_s` and `peak_rss_mib`. The sides take turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 16
LENGTH = 32
UPDATES = 4
WEIGHTS = 134.5e6
"""Of the model, which all are read in each step of sampling."""
FORWARD = 2 * WEIGHTS
"""Floating-point operations of one token's forward pass."""


class PhaseTimer:
    """Seconds by phase, from the end of the first update on."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = defaultdict(float)
        self.update_ends: list[float] = []

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = work(*args, **kwargs)
            if self.update_ends:
                self.phases[name] += time.perf_counter() - started
            return result

        return wrapped

    def end_update(self, step: int, metrics: Any) -> None:
        self.update_ends.append(time.perf_counter())

    @property
    def updates(self) -> int:
        return len(self.update_ends) - 1

    def seconds_per_update(self) -> float:
        return (self.update_ends[-1] - self.update_ends[0]) / self.updates


def load_actor(mode: str, config: Any) -> tuple[Any, Any, Any]:
    """(actor, base model of the preference model, renderer)"""
    import torch

    from cai.modeling.loading import load_model
    from cai.modeling.lora import with_adapter
    from cai.modeling.model_files import resolve_model_path
    from cai.modeling.precision import matmul_dtype
    from cai.modeling.tokenization import load_renderer
    from cai.reward.preference_model import ADAPTER
    from cai.train.ppo.actor import POLICY, FullActor, LoraActor

    path = resolve_model_path("smollm2")
    renderer = load_renderer(path)
    base = load_model(path)
    low_precision = matmul_dtype() != torch.float32
    rollout_copy = load_model(path, matmul_dtype()) if low_precision else None
    torch.manual_seed(0)
    if mode == "lora":
        base = with_adapter(base, POLICY, config.lora_rank)
        return LoraActor(base, rollout_copy), base, renderer
    base = with_adapter(base, ADAPTER, config.lora_rank)
    return FullActor(load_model(path), base, rollout_copy), base, renderer


PHASE_OF = {
    "environment.sample": "sample",
    "make_experience": "read",
    "learner.optimize": "learn",
}
"""Method below the trainer -> phase of an update; `score` is the reward function."""


def run_cai(mode: str) -> None:
    """Run the loop, and print one JSON line."""
    from cai.records import Prompt, chat_of
    from cai.reward.preference_model import PreferenceModel
    from cai.train.ppo.config import PPOConfig
    from cai.train.ppo.trainer import PPOTrainer

    config = PPOConfig.model_validate(
        {
            "num_updates": UPDATES,
            "mode": mode,
            "save_every": UPDATES,  # the peer does not save either
            "rollout": {
                "prompts_per_update": BATCH,
                "responses_per_prompt": 1,
                "max_new_tokens": LENGTH,
            },
            "optimization": {"num_minibatches": 1},
        }
    )
    actor, base, renderer = load_actor(mode, config)
    judge = PreferenceModel(base, renderer)
    texts = [f"Explain how to do task number {i} safely at home." for i in range(UPDATES * BATCH)]
    prompts = [Prompt(chat=chat_of(("user", text))) for text in texts]
    timer = PhaseTimer()
    tokens = [0]

    def reward_fn(rollouts: Any) -> Any:
        tokens[0] = sum(len(rollout.ids) for rollout in rollouts)
        return {"pm": judge.score([judge.rows(r.prompt.chat, r.text) for r in rollouts])}

    trainer = PPOTrainer(actor, renderer, timer.timed("score", reward_fn), config)
    for name, phase in PHASE_OF.items():
        owner, _, method = name.rpartition(".")
        part = getattr(trainer, owner) if owner else trainer
        setattr(part, method, timer.timed(phase, getattr(part, method)))
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(prompts, Path(folder), on_update=timer.end_update)
    print(json.dumps(report(mode, timer, tokens[0])), flush=True)


def report(mode: str, timer: PhaseTimer, tokens: int) -> dict[str, Any]:
    seconds = timer.seconds_per_update()
    line: dict[str, Any] = {
        "mode": mode,
        "s_per_update": round(seconds, 2),
        "episodes_per_s": round(BATCH / seconds, 3),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    limits = phase_limits(tokens)
    for name, total in timer.phases.items():
        line[f"s_{name}"] = round(total / timer.updates, 2)
        line[f"limit_{name}"] = round(limits[name], 2)
    line["of_limit"] = round(sum(limits.values()) / seconds, 2)
    return line


def phase_limits(tokens: int) -> dict[str, float]:
    """Least seconds of each phase of an update, as if nothing were shared between rows or passes.

    Prompts are read, scored and learnt from at the speed of matrix products: one forward pass to
    score, two to read (policy and reference), three's worth to learn. A step of sampling reads
    every weight, in the format of the products, and multiplies a token of each reply with it: the
    slower of the two bounds it.
    """
    from cai.modeling.precision import matmul_dtype

    dtype = matmul_dtype()
    rate, bandwidth = matmul_rate(dtype), memory_bandwidth()
    forward = tokens * FORWARD / rate
    step = max(WEIGHTS * dtype.itemsize / bandwidth, BATCH * FORWARD / rate)
    prompts = (tokens - BATCH * LENGTH) * FORWARD / rate
    return {
        "sample": prompts + LENGTH * step,
        "score": forward,
        "read": 2 * forward,
        "learn": 3 * forward,
    }


def memory_bandwidth() -> float:
    """Bytes a second that are read from memory, best of five sums over 512 MiB."""
    import torch

    block = torch.ones(128 * 2**20)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        block.sum()
        best = max(best, 4 * block.numel() / (time.perf_counter() - started))
    return best


def matmul_rate(dtype: Any) -> float:
    """Operations a second of a product of the model's sizes, best of five."""
    import torch

    a = torch.randn(512, 576, dtype=dtype)
    b = torch.randn(576, 1536, dtype=dtype)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(40):
            a @ b
        best = max(best, 40 * 2 * 512 * 576 * 1536 / (time.perf_counter() - started))
    return best


def run_command(command: list[str]) -> dict[str, Any]:
    """The last line that a command prints, as JSON."""
    result = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    row: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=("lora", "full"))
    parser.add_argument("--peer", nargs=2, metavar=("PYTHON", "SCRIPT"))
    options = parser.parse_args()
    if options.mode and not options.peer:
        run_cai(options.mode)
        return
    from cai.modeling.model_files import resolve_model_path

    path = str(resolve_model_path("smollm2"))
    for mode in (options.mode,) if options.mode else ("lora", "full"):
        rows = [run_command([sys.executable, __file__, "--mode", mode])]
        if options.peer:
            python, script = options.peer
            sizes = [str(UPDATES), str(BATCH), str(LENGTH), mode]
            rows.append(run_command([python, script, path, *sizes]))
        for row in rows:
            print(json.dumps(row), flush=True)
        if options.peer:
            mine, peer = rows
            speed = mine["episodes_per_s"] / peer["episodes_per_s"]
            memory = mine["peak_rss_mib"] / peer["peak_rss_mib"]
            print(f"{mode}: {speed:.2f} times the replies a second, {memory:.2f} of the memory")


if __name__ == "__main__":
    main()
