"""Proximal policy optimisation with KL control (arXiv:2203.02155 section 3.5; arXiv:1909.08593; arXiv:1707.06347).

Who learns is an `Actor` (see actor.py). The critic is a linear head for each kind of prompt on the reference's hidden states,
which the KL penalty needs anyway. With several processes each acts and learns on its share, and all of them know the whole.
Every draw is addressed by (seed, update, prompt, draw), so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from cai.errors import TrainError
from cai.fill import Progress
from cai.lm.below import Below
from cai.lm.chat import Renderer
from cai.records import Prompt
from cai.seeds import rng
from cai.store import append_bytes, mend, publish
from cai.train import checkpoint, ppo_math
from cai.train.actor import KINDS, Actor
from cai.train.draw import draw_prompts
from cai.train.exchange import everyones, spread_out
from cai.train.ppo_config import PPOConfig
from cai.train.ptx import Ptx, Text, ptx_loss
from cai.train.ranks import add_up, largest, rank, share, size, wait, whole
from cai.train.rollout import Rollout, Score, kinds_of, padded, read, sample, speak, states_of
from cai.train.table import describe, scored, total
from cai.train.track import Track, nowhere


@dataclass
class Learner:
    """What changes during training."""

    actor: Actor
    optimiser: torch.optim.Optimizer
    controller: ppo_math.KLController
    average: list[Tensor] = field(default_factory=list)
    """Of the policy's weights over steps; empty unless the config asks for it."""

    def parameters(self) -> list[Tensor]:
        """All that a checkpoint has to hold."""
        return [*self.actor.learnt(), *self.actor.critic.parameters(), *self.average]


def learner(actor: Actor, config: PPOConfig) -> Learner:
    """A learner at its start."""
    learnt = actor.learnt()
    optimiser = torch.optim.AdamW(
        [
            {"params": learnt, "lr": config.learning_rate},
            {"params": list(actor.critic.parameters()), "lr": config.critic_learning_rate},
        ],
        eps=1e-5,
        weight_decay=0.0,
        foreach=False,  # the moments of all weights at once are copies that full fine-tuning has no room for
    )
    controller = ppo_math.KLController(config.kl.coef, config.kl.target, config.kl.horizon)
    return Learner(actor, optimiser, controller, [p.detach().clone() for p in learnt] if config.ema else [])


@dataclass(frozen=True)
class Experience:
    """Rollouts with everything the update needs; one tensor (T,) per rollout."""

    rollouts: list[Rollout]
    batches: list[list[int]]
    """The minibatches, as places of rollouts."""
    own: list[list[list[int]]]
    """Of each, this process's part, cut into what is read at once. So are old log-probabilities: the first ratio is exactly 1."""
    below: list[list[Below]]
    """What the blocks that don't learn make of each cut."""
    first: list[Tensor]
    """The first cut's log-probabilities (N,), still with their way back, where no step comes before it: it is not read twice."""
    logps: list[Tensor]
    states: dict[int, Tensor]
    """(T, hidden) that the critic reads, for the parts that are this process's own."""
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
    track: Track = nowhere,
) -> list[dict[str, Any]]:
    """Train the actor's policy; metrics go to `folder/metrics.jsonl`, exact state to `folder/checkpoints`.

    `texts`: (prompt, reply) tokens for `config.ptx`. `track`: is told each update's metrics.
    With `config.ema`, the policy holds the averaged weights in the end.

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
        with it.actor.sampler() as sampler:
            own = sample(  # 1 act
                sampler,
                renderer,
                share(chosen),
                replies=config.replies,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                seed=seed,
                step=step,
            )
        rollouts, table = everyones(own, scored(score, own), chosen, renderer, config)  # 2 judge
        known, totals = total(table, rollouts, config)
        batches = minibatches(len(known), config, rng(seed, "ppo", "minibatch", step))
        experience, told = credit(  # 3 credit
            it, [rollouts[i] for i in known], totals, batches, renderer.pad_id, config, learns=step >= config.critic_warmup
        )
        told |= learn(it, experience, renderer.pad_id, config, step, Ptx(texts, config, seed))  # 4 learn
        told |= describe(table, rollouts, known, totals) | {"kl_coef": it.controller.beta, "step": step}
        it.controller = it.controller.after(told["kl"], len(known))
        history.append(told)
        if rank() == 0:
            track(step, told)
            append_bytes(metrics_file, (json.dumps(told) + "\n").encode())
        if (step + 1) % config.save_every == 0 or step + 1 == config.updates:
            checkpoint.save(folder / "checkpoints", step + 1, it.parameters(), it.optimiser, {"beta": it.controller.beta})
    for parameter, mean in zip(it.actor.learnt(), it.average, strict=False):
        parameter.data.copy_(mean)
    progress(config.updates, config.updates)
    return history


def _history(file: Path, steps: int) -> list[dict[str, Any]]:
    """The first `steps` lines; what a kill left beyond them is cut."""
    if rank() == 0:
        mend(file)
    wait()
    lines = file.read_text(encoding="utf-8").splitlines()[:steps] if file.exists() else []
    wait()
    if rank() == 0:
        publish(file, "".join(line + "\n" for line in lines))
    return [json.loads(line) for line in lines]


def minibatches(count: int, config: PPOConfig, stream: Random) -> list[list[int]]:
    """A random partition of `count` rollouts into at most `config.minibatches` parts, all but the last of one size."""
    order = stream.sample(range(count), count)
    size = -(-count // config.minibatches)
    return [order[start : start + size] for start in range(0, count, size)]


@torch.no_grad()
def credit(
    it: Learner,
    rollouts: list[Rollout],
    totals: list[float],
    batches: list[list[int]],
    pad: int,
    config: PPOConfig,
    *,
    learns: bool = True,
) -> tuple[Experience, dict[str, Any]]:
    """Old log-probabilities, reference, values, KL penalty, advantages (standardised over the whole batch) and returns.

    `learns`: whether the policy will, and not the critic alone.
    """
    whole_lengths = [len(r.prompt_ids) + len(r.reply_ids) for r in rollouts]
    own = [cut(batch, config.rows, whole_lengths) for batch in batches]
    below = [[Below(it.actor.frozen(config.layers)) for _ in cuts] for cuts in own]
    every, lower = list(chain(*own)), list(chain(*below))
    refs, states = read(it.actor.reference, rollouts, every, lower, pad, config.temperature)
    if it.actor.critic.states is not None:
        states = states_of(it.actor.critic.states, it.actor.reference, rollouts, every, pad)
    logps, _ = read(it.actor.policy, rollouts, every[1:], lower[1:], pad, config.temperature)
    with torch.set_grad_enabled(learns):  # last, so that nothing else is read while its way back is kept
        first_N = speak(it.actor.policy, [rollouts[i] for i in every[0]], lower[0], pad, config.temperature)
    logps |= zip(every[0], torch.split(first_N.detach(), [len(rollouts[i].reply_ids) for i in every[0]]), strict=True)
    values = {i: it.actor.critic(hidden_TE, kinds_of([rollouts[i]], hidden_TE.device)) for i, hidden_TE in states.items()}
    lengths = [len(r.reply_ids) for r in rollouts]
    logp_BT, ref_BT, value_BT = (spread_out(rows, batches, lengths) for rows in (logps, refs, values))
    mask_BT = padded([torch.ones(n, dtype=torch.bool, device=logp_BT.device) for n in lengths])
    rewards_BT = ppo_math.token_rewards(torch.tensor(totals, device=logp_BT.device), logp_BT, ref_BT, mask_BT, it.controller.beta)
    adv_BT = ppo_math.gae(rewards_BT, value_BT, mask_BT, gamma=1.0, lam=config.lam)
    returns_BT = adv_BT + value_BT
    if config.centre:
        kind_B = torch.tensor([KINDS.index(rollout.prompt.kind) for rollout in rollouts], device=adv_BT.device)
        adv_BT = ppo_math.centre(adv_BT, mask_BT, kind_B)
    white_BT = ppo_math.standardise(adv_BT, mask_BT) if config.whiten else adv_BT

    def rows(x_BT: Tensor) -> list[Tensor]:
        return [x_BT[i, :n] for i, n in enumerate(lengths)]

    spread = float(returns_BT[mask_BT].var(unbiased=False))
    unexplained = float((returns_BT - value_BT)[mask_BT].var(unbiased=False))
    told = {
        "kl": float((ppo_math.k1(logp_BT, ref_BT) * mask_BT).sum(1).mean()),
        "kl_k3": float((ppo_math.k3(logp_BT, ref_BT) * mask_BT).sum(1).mean()),
        "explained_variance": 1 - unexplained / spread if spread else None,  # equal returns leave nothing to explain
    }
    parts = map(rows, (value_BT, white_BT, returns_BT))
    return Experience(rollouts, batches, own, below, [first_N], rows(logp_BT), states, *parts), told


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


def cut(batch: Sequence[int], rows: int, lengths: Sequence[int]) -> list[list[int]]:
    """This process's share of a minibatch, `rows` places of like length at a time, in as many cuts as any process has.

    Who has fewer reads the first place again, without weight: every process must take part in every pass.
    """
    count = max(1, -(-len(share(batch, 0)) // rows))
    own = sorted(share(batch), key=lambda place: lengths[place])
    return [own[i * rows : (i + 1) * rows] or [batch[0]] for i in range(count)]


def _minibatch(
    it: Learner, e: Experience, place: int, pad: int, config: PPOConfig, texts: list[Rollout], *, policy: bool
) -> dict[str, float]:
    """One optimiser step. `policy`: whether the policy learns too, or only the critic.

    Each cut weighs its mean over tokens by their part of the minibatch's, so that all cuts' sum is the mean over all.
    """
    it.optimiser.zero_grad()
    count, mine = sum(len(e.rollouts[i].reply_ids) for i in e.batches[place]), set(share(e.batches[place]))
    told: defaultdict[str, float] = defaultdict(float)
    worst = 0.0
    for places, below in zip(e.own[place], e.below[place], strict=True):
        weight = sum(len(e.rollouts[i].reply_ids) for i in places if i in mine) / count
        found, error = _cut(it, e, places, below, weight, pad, config, policy=policy)
        for key, value in found.items():
            told[key] += value
        worst = max(worst, error)
    if texts and policy:
        mixed = ptx_loss(it.actor, texts, pad, config)
        told["ptx_loss"] = float(mixed.detach())
        _back(it, config.ptx.coef * mixed)
    sums = torch.tensor(list(told.values()), dtype=torch.float64)
    add_up([sums])
    known = dict(zip(told, sums.tolist(), strict=True))
    if not all(map(math.isfinite, known.values())):
        raise TrainError(f"ppo: the loss is {known['policy_loss'] + known['value_loss']}; lower ppo.learning_rate")
    return known | {"ratio_error": largest(worst), "grad_norm": _step(it, config)}


def _cut(
    it: Learner, e: Experience, places: list[int], below: Below, weight: float, pad: int, config: PPOConfig, *, policy: bool
) -> tuple[dict[str, float], float]:
    """Gradients of a part of a minibatch; its part of the metrics, and the largest error of a ratio."""
    rollouts, voice = [e.rollouts[i] for i in places], it.actor.policy

    def packed(rows: list[Tensor] | dict[int, Tensor]) -> Tensor:
        return torch.cat([rows[i] for i in places])

    old_logp_N, advantage_N = packed(e.logps), packed(e.advantages)
    with torch.set_grad_enabled(policy):
        logp_N = e.first.pop() if e.first else speak(voice, rollouts, below, pad, config.temperature)
    policy_loss = weight * ppo_math.policy_loss(logp_N, old_logp_N, advantage_N, config.clip)
    value_N = it.actor.critic(packed(e.states), kinds_of(rollouts, voice.device))
    value_loss = weight * ppo_math.value_loss(value_N, packed(e.values), packed(e.returns), config.clip)
    value_loss.backward()  # type: ignore[no-untyped-call]  # they share no parameter: no weight between them is needed
    if policy:
        _back(it, policy_loss)
    with torch.no_grad():
        ratio_N = (logp_N - old_logp_N).exp()
        told = {
            "policy_loss": float(policy_loss),
            "value_loss": float(value_loss),
            "clip_fraction": weight * float(((ratio_N - 1).abs() > config.clip).float().mean()),
            "approx_kl": weight * float(0.5 * ((logp_N - old_logp_N) ** 2).mean()),
            "entropy": weight * float(-logp_N.mean()),
        }
        return told, float((ratio_N - 1).abs().max())


def _back(it: Learner, loss: Tensor) -> None:
    """Add the policy's gradients. Spread weights get the processes' mean, and it is the sum that is wanted."""
    (loss * (size() if it.actor.sharded else 1)).backward()  # type: ignore[no-untyped-call]


def _step(it: Learner, config: PPOConfig) -> float:
    """Gradients, summed over processes and clipped; one step; the average follows. Returns the policy's norm before clipping."""
    critic, learnt = list(it.actor.critic.parameters()), it.actor.learnt()
    add_up([p.grad for p in [*critic, *learnt * (not it.actor.sharded)] if p.grad is not None])
    norm = whole(nn.utils.clip_grad_norm_(learnt, config.max_grad_norm))
    nn.utils.clip_grad_norm_(critic, config.max_grad_norm)
    it.optimiser.step()
    with torch.no_grad():
        for mean, parameter in zip(it.average, learnt, strict=False):
            mean.lerp_(parameter, 1 - (config.ema or 0.0))
    return float(norm)
