"""PPO-ptx: does mixed-in text keep the model's log loss on plain text, at the same reward?

    python benchmarks/ptx.py [SEEDS]

SmolLM2 is rewarded for brevity, which nothing in its text asks for, once with `ppo.ptx` and once
without, from equal seeds. Plain text is the paragraphs of this project's documents: every second
one may be drawn for ptx, some of the others are held out. Prints the log loss on those before and
after, the reward of the last updates, and paired differences with Student intervals.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import torch
from scipy.stats import t as student

from cai.data.readers import prompt_rows
from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.model_files import resolve_model_path
from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Prompt, chat_of
from cai.train.ppo.actor import POLICY, LoraActor
from cai.train.ppo.config import PPOConfig, PtxConfig
from cai.train.ppo.experience import micro_batch_size
from cai.train.ppo.ptx import PtxText, ptx_losses
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.ppo.trainer import PPOTrainer

ROOT = Path(__file__).parents[1]
HELD_OUT = 40
"""Paragraphs that the loss is measured on."""
CONFIG = PPOConfig.model_validate(
    {
        "num_updates": 5,
        "num_trainable_layers": 10,
        "rollout": {"prompts_per_update": 8, "responses_per_prompt": 4, "max_new_tokens": 32},
        "optimization": {"learning_rate": 2e-3, "num_minibatches": 4},
        "kl": {"coef": 0.01},
    }
)


def paragraphs(renderer: Renderer) -> list[PtxText]:
    """(first token, the others) of each paragraph of plain words."""
    texts = []
    files = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
    files += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
    for name in files:
        for text in (ROOT / name).read_text(encoding="utf-8").split("\n\n"):
            ids = renderer.text_ids(" ".join(text.split()))[:120]
            if len(ids) > 30 and not text.startswith(("```", "|", "<!--")):
                texts.append((ids[:1], ids[1:]))
    return texts


def run_ppo(seed: int, coef: float) -> tuple[float, float, float]:
    """(loss on held-out text before, after, mean reward of the last two updates)"""
    path = resolve_model_path("smollm2")
    renderer = load_renderer(path)
    torch.manual_seed(seed)
    base = with_adapter(load_model(path), POLICY, CONFIG.lora_rank, CONFIG.num_trainable_layers)
    actor = LoraActor(base)
    texts = paragraphs(renderer)
    placeholder = Prompt(chat=chat_of(("user", "-")))
    held_out = [
        Rollout(placeholder, *text, text="", finished=True) for text in texts[1::2][:HELD_OUT]
    ]
    prompts = list(prompt_rows(ROOT / "examples" / "prompts" / "benign.jsonl"))

    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        return {
            "brief": [1 - len(r.response_ids) / CONFIG.rollout.max_new_tokens for r in rollouts]
        }

    @torch.no_grad()
    def held_out_loss() -> float:
        return float(
            sum(ptx_losses(actor.policy, held_out, micro_batch_size(CONFIG, actor.policy.device)))
        )

    before = held_out_loss()
    config = CONFIG.model_copy(update={"ptx": PtxConfig(coef=coef, batch_size=8)})
    trainer = PPOTrainer(actor, renderer, score, config, seed)
    with tempfile.TemporaryDirectory() as folder:
        history = trainer.train(prompts, Path(folder), texts[::2])
    return before, held_out_loss(), fmean(row["reward"] for row in history[-2:])


def interval_text(values: Sequence[float]) -> str:
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    mean = fmean(values)
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}] n={len(values)} seeds"


def difference_text(values: dict[str, list[float]]) -> str:
    pairs = zip(values["ptx"], values["plain"], strict=True)
    return interval_text([ptx - plain for ptx, plain in pairs])


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    rises: dict[str, list[float]] = {"plain": [], "ptx": []}
    rewards: dict[str, list[float]] = {"plain": [], "ptx": []}
    for seed in range(seeds):
        for name, coef in (("plain", 0.0), ("ptx", 0.1)):
            before, after, reward = run_ppo(seed, coef)
            rises[name].append(after - before)
            rewards[name].append(reward)
            print(
                f"seed {seed}, {name}: held-out loss {before:.3f} -> {after:.3f} nats a token, "
                f"reward {reward:.2f}",
                flush=True,
            )
    plain, ptx = interval_text(rises["plain"]), interval_text(rises["ptx"])
    print(f"rise of the loss, plain {plain}; ptx {ptx}")
    print(f"ptx less plain: loss {difference_text(rises)}")
    print(f"ptx less plain: reward {difference_text(rewards)}")


if __name__ == "__main__":
    main()
