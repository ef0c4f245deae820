"""Proximal policy optimisation with KL control (arXiv:2203.02155 section 3.5; arXiv:1909.08593; arXiv:1707.06347).

One frozen base in memory: the policy is a LoRA adapter on it, the reference is the base with adapters off, and the critic is a
linear head on the reference's hidden states, which the KL penalty needs anyway. A plain copy of the base with the policy merged
in does the sampling. Every draw is addressed by (seed, update, prompt, draw), so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from cai.errors import TrainError
from cai.lm.adapters import head_of, merge_into, parameters_of
from cai.lm.below import Below, frozen_blocks
from cai.lm.chat import Renderer
from cai.records import Prompt, chat_of
from cai.seeds import rng
from cai.store import Progress, append_bytes, mend, publish
from cai.train import checkpoint, ppo_math
from cai.train.draw import draw_prompts
from cai.train.ppo_config import PPOConfig
from cai.train.rollout import RewardTable, Rollout, Score, padded, read, reply_hidden, sample, token_logprobs, tokens_of

POLICY = "policy"


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
    average: list[Tensor] = field(default_factory=list)
    """Of the policy's weights over steps; empty unless the config asks for it."""

    def policy(self) -> list[nn.Parameter]:
        return parameters_of(self.model, POLICY)

    def parameters(self) -> list[Tensor]:
        """All that a checkpoint has to hold."""
        return [*self.policy(), *self.critic.parameters(), *self.average]


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
    average = [p.detach().clone() for p in parameters_of(model, POLICY)] if config.ema else []
    return Learner(model, sampler, critic, optimiser, controller, average)


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
    texts: Sequence[Text] = (),
) -> list[dict[str, Any]]:
    """Train `it.model`'s policy adapter; metrics go to `folder/metrics.jsonl`, exact state to `folder/checkpoints`.

    `texts`: (prompt, reply) tokens for `config.ptx`. With `config.ema`, the adapter holds the averaged weights in the end.

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
        told |= learn(it, experience, renderer.pad_id, config, step, Ptx(texts, config, seed))  # 4 learn
        told |= describe(table, rollouts, known, totals) | {"kl_coef": it.controller.beta, "step": step}
        it.controller = it.controller.after(told["kl"], len(known))
        history.append(told)
        append_bytes(metrics_file, (json.dumps(told) + "\n").encode())
        checkpoint.save(folder / "checkpoints", step + 1, it.parameters(), it.optimiser, {"beta": it.controller.beta})
    for parameter, mean in zip(it.policy(), it.average, strict=False):
        parameter.data.copy_(mean)
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
    if config.centre:
        kinds = [rollout.prompt.kind or "" for rollout in rollouts]
        adv_BT = ppo_math.centre(
            adv_BT, mask_BT, torch.tensor([sorted(set(kinds)).index(k) for k in kinds], device=adv_BT.device)
        )
    white_BT = ppo_math.standardise(adv_BT, mask_BT) if config.whiten else adv_BT
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


def learn(
    it: Learner, e: Experience, pad: int, config: PPOConfig, step: int = 0, ptx: Ptx | None = None
) -> dict[str, float | None]:
    """Passes of clipped policy and value updates; means of their metrics over minibatches."""
    seen: list[dict[str, float]] = []
    planned = config.epochs * len(e.batches)
    for number in range(planned):
        warm = step * config.epochs * config.minibatches + number + 1
        _set_rates(it.optimiser, config, min(1.0, warm / config.warmup) if config.warmup else 1.0)
        texts = ptx.draw(step, number) if ptx else []
        seen.append(_minibatch(it, e, number % len(e.batches), pad, config, texts, policy=step >= config.critic_warmup))
        if config.kl.stop is not None and seen[-1]["approx_kl"] > config.kl.stop:
            break
    means: dict[str, float | None] = {key: fmean(row[key] for row in seen) for key in seen[0]}
    return means | {"first_ratio_error": seen[0]["ratio_error"], "steps_taken": len(seen) / planned}


def _set_rates(optimiser: torch.optim.Optimizer, config: PPOConfig, share: float) -> None:
    for group, rate in zip(optimiser.param_groups, (config.learning_rate, config.critic_learning_rate), strict=True):
        group["lr"] = rate * share


Text = tuple[list[int], list[int]]
"""Tokens of a prompt and of the reply to it."""


@dataclass(frozen=True)
class Ptx:
    """Fine-tuning texts, from which each step draws its own by (seed, update, step)."""

    texts: Sequence[Text]
    config: PPOConfig
    seed: int

    def draw(self, step: int, number: int) -> list[Rollout]:
        if not self.config.ptx.coef or not self.texts:
            return []
        drawn = rng(self.seed, "ptx", step, number).sample(range(len(self.texts)), min(self.config.ptx.batch, len(self.texts)))
        return [Rollout(NO_PROMPT, *self.texts[i], text="", finished=True) for i in drawn]


NO_PROMPT = Prompt(chat=chat_of(("user", "-")))


def _ptx_loss(it: Learner, texts: list[Rollout], pad: int, config: PPOConfig) -> Tensor:
    """Mean log loss of the policy on the replies' tokens, nats."""
    below = Below(frozen_blocks(it.model.get_base_model(), config.layers))
    hidden_NE = reply_hidden(it.model, POLICY, texts, pad, below)
    return -token_logprobs(hidden_NE, tokens_of(texts, it.model.device), head_of(it.model), 1.0).mean()


def _minibatch(
    it: Learner, e: Experience, place: int, pad: int, config: PPOConfig, texts: list[Rollout], *, policy: bool
) -> dict[str, float]:
    """One optimiser step. `policy`: whether the policy learns too, or only the critic."""
    places = e.batches[place]
    rollouts = [e.rollouts[i] for i in places]

    def packed(rows: list[Tensor]) -> Tensor:
        return torch.cat([rows[i] for i in places])

    old_logp_N, advantage_N = packed(e.logps), packed(e.advantages)
    with torch.set_grad_enabled(policy):
        hidden_NE = reply_hidden(it.model, POLICY, rollouts, pad, e.below[place])
        logp_N = token_logprobs(hidden_NE, tokens_of(rollouts, it.model.device), head_of(it.model), config.temperature)
    policy_loss = ppo_math.policy_loss(logp_N, old_logp_N, advantage_N, config.clip)
    value_loss = ppo_math.value_loss(it.critic(packed(e.states)), packed(e.values), packed(e.returns), config.clip)
    loss = value_loss + policy_loss if policy else value_loss  # they share no parameter: no weight between them is needed
    told = {"policy_loss": float(policy_loss.detach()), "value_loss": float(value_loss.detach())}
    if texts and policy:
        ptx_loss = _ptx_loss(it, texts, pad, config)
        loss, told = loss + config.ptx.coef * ptx_loss, told | {"ptx_loss": float(ptx_loss.detach())}
    if not torch.isfinite(loss):
        raise TrainError(f"ppo: the loss is {float(loss)}; lower ppo.learning_rate")
    it.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    grad_norm = nn.utils.clip_grad_norm_(it.policy(), config.max_grad_norm)
    nn.utils.clip_grad_norm_(it.critic.parameters(), config.max_grad_norm)
    it.optimiser.step()
    with torch.no_grad():
        for mean, parameter in zip(it.average, it.policy(), strict=False):
            mean.lerp_(parameter, 1 - (config.ema or 0.0))
        ratio_N = (logp_N - old_logp_N).exp()
        return told | {
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
