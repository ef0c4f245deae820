"""Proximal policy optimisation with KL control (arXiv:2203.02155 section 3.5; arXiv:1909.08593; arXiv:1707.06347).

One frozen base in memory: the policy is a LoRA adapter on it, the reference is the base with adapters off, and the critic is a
linear head on the reference's hidden states, which the KL penalty needs anyway. A plain copy of the base with the policy merged
in does the sampling. Every draw is addressed by (seed, update, prompt, draw), so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Annotated, Any

import torch
from peft import PeftModel
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from cai.errors import TrainError
from cai.lm.adapters import head_of, merge_into, parameters_of
from cai.lm.below import Below, frozen_blocks
from cai.lm.chat import Renderer
from cai.records import Prompt
from cai.seeds import rng
from cai.store import Progress, append_bytes, mend, publish
from cai.train import checkpoint, ppo_math
from cai.train.draw import Share, draw_prompts
from cai.train.rollout import RewardTable, Rollout, Score, padded, read, reply_hidden, sample, token_logprobs, tokens_of

POLICY = "policy"


class KLConfig(BaseModel):
    """How far the policy may go from the reference."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    coef: float = Field(0.05, ge=0)
    """Reward lost per nat: the fixed weight, or the adaptive controller's first."""
    target: float | None = Field(None, gt=0)
    """Nats per reply that the adaptive controller steers to; None: the weight stays fixed."""
    horizon: int = Field(2000, ge=1)
    """Episodes in which the controller may move by a factor of about e^0.2."""


class PPOConfig(BaseModel):
    """What PPO may vary. Derived sizes are properties."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    updates: int = Field(8, ge=0)
    prompts: int = Field(16, ge=1)
    """Prompts per update."""
    shares: dict[Share, Annotated[float, Field(gt=0)]] | None = None
    """Relative share of each kind among them, or of a category of one (`benign/borderline`); None: as they come.

    A kind stands for all its categories but those that have a share of their own.
    """
    replies: int = Field(4, ge=1)
    """Replies per prompt."""
    max_tokens: int = Field(48, ge=1)
    """Of a reply."""
    temperature: float = Field(0.7, gt=0)
    """Of sampling; log-probabilities of policy and reference are taken at it."""
    rank: int = Field(16, ge=1)
    layers: int | None = Field(None, ge=1)
    """Only the model's last so many blocks learn, which makes an update cheaper; None: all."""
    learning_rate: float = Field(3e-4, gt=0)
    critic_learning_rate: float = Field(2e-3, gt=0)
    epochs: int = Field(1, ge=1)
    """Passes over an update's rollouts."""
    minibatches: int = Field(4, ge=1)
    clip: float = Field(0.2, gt=0)
    """Of the probability ratio, and of the critic's step in units of the reward."""
    lam: float = Field(0.95, ge=0, le=1)
    """GAE's trade of bias for variance; rewards are not discounted."""
    missing_stop: float = Field(0.0, ge=0)
    """Reward lost by a reply that the model did not end itself."""
    max_grad_norm: float = Field(1.0, gt=0)
    kl: KLConfig = KLConfig()

    @property
    def episodes(self) -> int:
        """Replies per update."""
        return self.prompts * self.replies

    @model_validator(mode="after")
    def _whole_minibatches(self) -> PPOConfig:
        if self.episodes % self.minibatches:
            raise ValueError(f"prompts * replies = {self.episodes} is not a multiple of minibatches = {self.minibatches}")
        return self


class Critic(nn.Module):
    """V(state): a linear head, zero at first, on the frozen reference's hidden states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden_NE: Tensor) -> Tensor:
        value_N1: Tensor = self.head(hidden_NE)
        return value_N1.squeeze(-1)


@dataclass
class Learner:
    """What changes during training."""

    model: PeftModel
    """The frozen base with the adapter `policy`, and whatever else lives on it."""
    sampler: PreTrainedModel
    """A plain copy of the base."""
    critic: Critic
    optimiser: torch.optim.Optimizer
    controller: ppo_math.KLController

    def parameters(self) -> list[Tensor]:
        return [*parameters_of(self.model, POLICY), *self.critic.parameters()]


def learner(model: PeftModel, sampler: PreTrainedModel, config: PPOConfig) -> Learner:
    """A learner at its start; `model` must carry an adapter named `policy`."""
    critic = Critic(int(model.config.hidden_size)).to(model.device)
    optimiser = torch.optim.AdamW(
        [
            {"params": parameters_of(model, POLICY), "lr": config.learning_rate},
            {"params": list(critic.parameters()), "lr": config.critic_learning_rate},
        ],
        eps=1e-5,
        weight_decay=0.0,
    )
    controller = ppo_math.KLController(config.kl.coef, config.kl.target, config.kl.horizon)
    return Learner(model, sampler, critic, optimiser, controller)


@dataclass(frozen=True)
class Experience:
    """Rollouts with everything the update needs; one tensor (T,) per rollout."""

    rollouts: list[Rollout]
    batches: list[list[int]]
    """The minibatches, as places of rollouts. Old log-probabilities are read in them: the first ratio is exactly 1."""
    below: list[Below]
    """What the blocks that don't learn make of each minibatch."""
    logps: list[Tensor]
    states: list[Tensor]
    """(T, hidden) of the reference."""
    values: list[Tensor]
    advantages: list[Tensor]
    returns: list[Tensor]


def ppo(
    it: Learner,
    renderer: Renderer,
    prompts: Sequence[Prompt],
    score: Score,
    config: PPOConfig,
    folder: Path,
    *,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Train `it.model`'s policy adapter; metrics go to `folder/metrics.jsonl`, exact state to `folder/checkpoints`.

    Returns:
        The metrics of all updates, those before a kill included.

    Raises:
        TrainError: every reward of an update is unknown, or a loss is not a number.
    """
    metrics_file = folder / "metrics.jsonl"
    state = checkpoint.load(folder / "checkpoints", it.parameters(), it.optimiser)
    start = 0 if state is None else int(state["step"])
    if state is not None:
        it.controller = ppo_math.KLController(float(state["beta"]), config.kl.target, config.kl.horizon)
    history = _history(metrics_file, start)
    for step in range(start, config.updates):
        progress(step, config.updates)
        chosen = draw_prompts(prompts, config.prompts, seed, step, config.shares)
        merge_into(it.sampler, it.model, POLICY)
        rollouts = sample(  # 1 act
            it.sampler,
            renderer,
            chosen,
            replies=config.replies,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            seed=seed,
            step=step,
        )
        table = score(rollouts)  # 2 judge
        known, totals = total(table, rollouts, config)
        batches = minibatches(len(known), config, rng(seed, "ppo", "minibatch", step))
        experience, told = credit(it, [rollouts[i] for i in known], totals, batches, renderer.pad_id, config)  # 3 credit
        told |= learn(it, experience, renderer.pad_id, config)  # 4 learn
        told |= describe(table, rollouts, known, totals) | {"kl_coef": it.controller.beta, "step": step}
        it.controller = it.controller.after(told["kl"], len(known))
        history.append(told)
        append_bytes(metrics_file, (json.dumps(told) + "\n").encode())
        checkpoint.save(folder / "checkpoints", step + 1, it.parameters(), it.optimiser, {"beta": it.controller.beta})
    progress(config.updates, config.updates)
    return history


def _history(file: Path, steps: int) -> list[dict[str, Any]]:
    """The first `steps` lines; what a kill left beyond them is cut."""
    mend(file)
    lines = file.read_text(encoding="utf-8").splitlines()[:steps] if file.exists() else []
    publish(file, "".join(line + "\n" for line in lines))
    return [json.loads(line) for line in lines]


def total(table: RewardTable, rollouts: Sequence[Rollout], config: PPOConfig) -> tuple[list[int], list[float]]:
    """(places of rollouts whose every part is known, their summed rewards less the missing-stop penalty)."""
    known = [i for i in range(len(rollouts)) if all(part[i] is not None for part in table.values())]
    if not known:
        raise TrainError("ppo: no rollout of this update has a known reward")
    sums = [sum(part[i] or 0.0 for part in table.values()) - config.missing_stop * (not rollouts[i].finished) for i in known]
    return known, sums


def minibatches(count: int, config: PPOConfig, stream: Random) -> list[list[int]]:
    """A random partition of `count` rollouts into `config.minibatches` parts (fewer when there aren't as many rollouts)."""
    order = stream.sample(range(count), count)
    size = -(-count // config.minibatches)
    return [order[start : start + size] for start in range(0, count, size)]


@torch.no_grad()
def credit(
    it: Learner, rollouts: list[Rollout], totals: list[float], batches: list[list[int]], pad: int, config: PPOConfig
) -> tuple[Experience, dict[str, Any]]:
    """Old log-probabilities, reference, values, KL penalty, advantages (standardised over the whole batch) and returns."""
    frozen = frozen_blocks(it.model.get_base_model(), config.layers)
    below = [Below(frozen) for _ in batches]
    refs, states = read(it.model, None, rollouts, batches, below, pad, config.temperature)
    logps, _ = read(it.model, POLICY, rollouts, batches, below, pad, config.temperature)
    values = [it.critic(hidden_TE) for hidden_TE in states]
    logp_BT, ref_BT, value_BT = padded(logps), padded(refs), padded(values)
    mask_BT = padded([torch.ones_like(x, dtype=torch.bool) for x in logps])
    rewards_BT = ppo_math.token_rewards(torch.tensor(totals, device=logp_BT.device), logp_BT, ref_BT, mask_BT, it.controller.beta)
    adv_BT = ppo_math.gae(rewards_BT, value_BT, mask_BT, gamma=1.0, lam=config.lam)
    returns_BT = adv_BT + value_BT
    white_BT = ppo_math.standardise(adv_BT, mask_BT)
    lengths = [len(x) for x in logps]

    def rows(x_BT: Tensor) -> list[Tensor]:
        return [x_BT[i, :n] for i, n in enumerate(lengths)]

    spread = float(returns_BT[mask_BT].var(unbiased=False))
    unexplained = float((returns_BT - value_BT)[mask_BT].var(unbiased=False))
    told = {
        "kl": float((ppo_math.k1(logp_BT, ref_BT) * mask_BT).sum(1).mean()),
        "kl_k3": float((ppo_math.k3(logp_BT, ref_BT) * mask_BT).sum(1).mean()),
        "explained_variance": 1 - unexplained / spread if spread else None,  # equal returns leave nothing to explain
    }
    return Experience(rollouts, batches, below, logps, states, values, rows(white_BT), rows(returns_BT)), told


def learn(it: Learner, e: Experience, pad: int, config: PPOConfig) -> dict[str, float]:
    """Passes of clipped policy and value updates; means of their metrics over minibatches."""
    seen = [_minibatch(it, e, place, pad, config) for _ in range(config.epochs) for place in range(len(e.batches))]
    return {key: fmean(row[key] for row in seen) for key in seen[0]} | {"first_ratio_error": seen[0]["ratio_error"]}


def _minibatch(it: Learner, e: Experience, place: int, pad: int, config: PPOConfig) -> dict[str, float]:
    places = e.batches[place]
    rollouts = [e.rollouts[i] for i in places]

    def packed(rows: list[Tensor]) -> Tensor:
        return torch.cat([rows[i] for i in places])

    old_logp_N, advantage_N = packed(e.logps), packed(e.advantages)
    hidden_NE = reply_hidden(it.model, POLICY, rollouts, pad, e.below[place])
    logp_N = token_logprobs(hidden_NE, tokens_of(rollouts, it.model.device), head_of(it.model), config.temperature)
    policy_loss = ppo_math.policy_loss(logp_N, old_logp_N, advantage_N, config.clip)
    value_loss = ppo_math.value_loss(it.critic(packed(e.states)), packed(e.values), packed(e.returns), config.clip)
    loss = policy_loss + value_loss  # they share no parameter: no weight between them is needed
    if not torch.isfinite(loss):
        raise TrainError(f"ppo: the loss is {float(loss)}; lower ppo.learning_rate")
    it.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    grad_norm = nn.utils.clip_grad_norm_(parameters_of(it.model, POLICY), config.max_grad_norm)
    nn.utils.clip_grad_norm_(it.critic.parameters(), config.max_grad_norm)
    it.optimiser.step()
    with torch.no_grad():
        ratio_N = (logp_N - old_logp_N).exp()
        return {
            "policy_loss": float(policy_loss),
            "value_loss": float(value_loss),
            "grad_norm": float(grad_norm),
            "clip_fraction": float(((ratio_N - 1).abs() > config.clip).float().mean()),
            "approx_kl": float(0.5 * ((logp_N - old_logp_N) ** 2).mean()),
            "entropy": float(-logp_N.mean()),
            "ratio_error": float((ratio_N - 1).abs().max()),
        }


def describe(table: RewardTable, rollouts: Sequence[Rollout], known: Sequence[int], totals: Sequence[float]) -> dict[str, Any]:
    """Means over the rollouts of one update; parts of the reward by name, and how many rollouts went unscored."""
    parts = {
        f"reward.{name}": fmean(v for v in part if v is not None)
        for name, part in table.items()
        if any(v is not None for v in part)
    }
    return parts | {
        "reward": fmean(totals),
        "length": fmean(len(r.reply_ids) for r in rollouts),
        "finished": fmean(float(r.finished) for r in rollouts),
        "episodes": len(known),
        "unscored": len(rollouts) - len(known),
    }
