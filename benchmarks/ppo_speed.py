"""One PPO loop against another on one machine: seconds an update, replies a second, highest resident memory, time by phase.

    python benchmarks/ppo_speed.py [--mode lora|full] [--peer PYTHON SCRIPT]

SmolLM2-135M, 16 prompts an update, 32 new tokens, one pass, 4 updates of which the first is left out. The reward is a preference
model of the same size, as the peer's is. PYTHON is the interpreter of an environment with TRL 1.12, the last that had PPO. SCRIPT
runs its PPOTrainer with the same sizes, and prints a JSON line with `episodes_per_s` and `peak_rss_mib`. The sides take turns.
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

BATCH, LENGTH, UPDATES = 16, 32, 4
FORWARD = 0.27e9
"""Floating-point operations of one token's forward pass."""


def ours(mode: str) -> None:
    import torch

    from cai.modeling.loading import load_model
    from cai.modeling.lora import with_adapter
    from cai.modeling.model_files import locate
    from cai.modeling.precision import matmul_dtype
    from cai.modeling.tokenization import load_renderer
    from cai.records import Prompt, chat_of
    from cai.reward.preference_model import ADAPTER, PreferenceModel
    from cai.train.ppo import trainer as loop
    from cai.train.ppo.actor import POLICY, FullActor, LoraActor
    from cai.train.ppo.config import PPOConfig

    where = locate("smollm2")
    sizes = {"updates": UPDATES, "prompts": BATCH, "replies": 1, "max_tokens": LENGTH, "minibatches": 1}
    config = PPOConfig.model_validate(sizes | {"mode": mode, "save_every": UPDATES})  # nor does the peer save
    renderer, base = load_renderer(where), load_model(where)
    copy = load_model(where, matmul_dtype()) if matmul_dtype() != torch.float32 else None
    torch.manual_seed(0)
    if mode == "lora":
        base = with_adapter(base, POLICY, config.rank)
        actor: Any = LoraActor(base, copy)
    else:
        base = with_adapter(base, ADAPTER, config.rank)
        actor = FullActor(load_model(where), base, copy)
    judge = PreferenceModel(base, renderer)
    prompts = [
        Prompt(chat=chat_of(("user", f"Explain how to do task number {i} safely at home."))) for i in range(UPDATES * BATCH)
    ]
    phases: dict[str, float] = defaultdict(float)
    ends: list[float] = []
    tokens = [0]

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **more: Any) -> Any:
            started = time.perf_counter()
            found = work(*given, **more)
            phases[name] += time.perf_counter() - started if ends else 0.0
            return found

        return wrapped

    def score(rollouts: Any) -> Any:
        tokens[0] = sum(len(r.prompt_ids) + len(r.reply_ids) for r in rollouts)
        return {"pm": judge.score([judge.rows(r.prompt.chat, r.text) for r in rollouts])}

    loop.sample, loop.credit, loop.learn = timed("sample", loop.sample), timed("read", loop.credit), timed("learn", loop.learn)

    def update(step: int, told: Any) -> None:
        ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        loop.ppo(
            loop.learner(actor, config),
            renderer,
            prompts,
            timed("score", score),
            config,
            Path(folder),
            seed=0,
            progress=lambda done, total: None,
            track=update,
        )
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
    found = {"mode": mode, "s_per_update": round(seconds, 2), "episodes_per_s": round(BATCH / seconds, 3)}
    found["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    found |= {f"s_{name}": round(total / (len(ends) - 1), 2) for name, total in phases.items()}
    # as if nothing were shared: sampling, reference, old policy and reward read each token once; learning reads it and goes back
    work = tokens[0] * FORWARD * (4 + 3)
    found["of_matmul_limit"] = round(work / seconds / matmul(), 2)
    print(json.dumps(found), flush=True)


def matmul() -> float:
    """Operations a second of a product of the model's own sizes, best of five."""
    import torch

    a, b = torch.randn(512, 576), torch.randn(576, 1536)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(40):
            a @ b
        best = max(best, 40 * 2 * 512 * 576 * 1536 / (time.perf_counter() - started))
    return best


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--mode", choices=("lora", "full"))
    options.add_argument("--peer", nargs=2, metavar=("PYTHON", "SCRIPT"))
    given = options.parse_args()
    if given.mode and not given.peer:
        ours(given.mode)
        return
    from cai.modeling.model_files import locate

    where = locate("smollm2")
    for mode in (given.mode,) if given.mode else ("lora", "full"):
        lines = [subprocess.run([sys.executable, __file__, "--mode", mode], capture_output=True, text=True, check=True).stdout]  # noqa: S603
        if given.peer:
            python, script = given.peer
            sizes = [str(UPDATES), str(BATCH), str(LENGTH), mode]
            lines.append(subprocess.run([python, script, where, *sizes], capture_output=True, text=True, check=True).stdout)  # noqa: S603
        found = [json.loads(line.strip().splitlines()[-1]) for line in lines]
        for row in found:
            print(json.dumps(row), flush=True)
        if given.peer:
            mine, peer = found
            faster, memory = (mine[key] / peer[key] for key in ("episodes_per_s", "peak_rss_mib"))
            print(f"{mode}: {faster:.2f} times the replies a second, {memory:.2f} of the memory")


if __name__ == "__main__":
    main()
