"""Does fine-tuning text in PPO's steps (PPO-ptx) keep the model's hold on plain text, at the same reward?

    python benchmarks/ptx.py [SEEDS]

SmolLM2 learns to be brief, which nothing in its text asks for, once with `ppo.ptx` and once without, from equal seeds. Plain
text is the paragraphs of this project's documents: every second one may be drawn for ptx, some of the others are measured.
Prints the log loss on those before and after, the reward of the last updates, and paired differences with Student intervals.
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
from cai.modeling.model_files import locate
from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Prompt, chat_of
from cai.train.ppo.actor import POLICY, LoraActor
from cai.train.ppo.config import KLConfig, PPOConfig, PtxConfig
from cai.train.ppo.ptx import Text, ptx_losses
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.ppo.trainer import learner, ppo

ROOT = Path(__file__).parents[1]
MEASURED = 40
"""Paragraphs that the loss is measured on."""
CONFIG = PPOConfig(
    updates=5, prompts=8, replies=4, max_tokens=32, learning_rate=2e-3, minibatches=4, layers=10, kl=KLConfig(coef=0.01)
)


def paragraphs(renderer: Renderer) -> list[Text]:
    """(first token, the others) of each paragraph of plain words."""
    found = []
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for text in (ROOT / name).read_text(encoding="utf-8").split("\n\n"):
            ids = renderer.text_ids(" ".join(text.split()))[:120]
            if len(ids) > 30 and not text.startswith(("```", "|", "<!--")):
                found.append((ids[:1], ids[1:]))
    return found


def one(seed: int, coef: float) -> tuple[float, float, float]:
    """(loss on held-out text before, after, mean reward of the last two updates)"""
    where = locate("smollm2")
    renderer = load_renderer(where)
    torch.manual_seed(seed)
    actor = LoraActor(with_adapter(load_model(where), POLICY, CONFIG.rank, CONFIG.layers))
    texts = paragraphs(renderer)
    learnt, held = (
        texts[::2],
        [Rollout(Prompt(chat=chat_of(("user", "-"))), *text, text="", finished=True) for text in texts[1::2][:MEASURED]],
    )
    asked = list(prompt_rows(ROOT / "examples" / "prompts" / "benign.jsonl"))

    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        return {"brief": [1 - len(r.reply_ids) / CONFIG.max_tokens for r in rollouts]}

    @torch.no_grad()
    def loss() -> float:
        return float(sum(ptx_losses(actor, held, renderer.pad_id, CONFIG)))

    before = loss()
    config = CONFIG.model_copy(update={"ptx": PtxConfig(coef=coef, batch=8)})
    with tempfile.TemporaryDirectory() as folder:
        it = learner(actor, config)
        history = ppo(
            it, renderer, asked, score, config, Path(folder), seed=seed, progress=lambda done, total: None, texts=learnt
        )
    return before, loss(), fmean(row["reward"] for row in history[-2:])


def told(values: Sequence[float]) -> str:
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{fmean(values):+.3f} [{fmean(values) - half:+.3f}, {fmean(values) + half:+.3f}] n={len(values)} seeds"


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    rises: dict[str, list[float]] = {"plain": [], "ptx": []}
    rewards: dict[str, list[float]] = {"plain": [], "ptx": []}
    for seed in range(seeds):
        for name, coef in (("plain", 0.0), ("ptx", 0.1)):
            before, after, reward = one(seed, coef)
            rises[name].append(after - before)
            rewards[name].append(reward)
            print(f"seed {seed}, {name}: held-out loss {before:.3f} -> {after:.3f} nats a token, reward {reward:.2f}", flush=True)
    print(f"rise of the loss, plain {told(rises['plain'])}; ptx {told(rises['ptx'])}")
    print(f"ptx less plain: loss {told([a - b for a, b in zip(rises['ptx'], rises['plain'], strict=True)])}")
    print(f"ptx less plain: reward {told([a - b for a, b in zip(rewards['ptx'], rewards['plain'], strict=True)])}")


if __name__ == "__main__":
    main()
