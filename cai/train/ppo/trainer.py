"""Proximal policy optimisation with KL control (arXiv:2203.02155 section 3.5; arXiv:1909.08593; arXiv:1707.06347).

Who learns is an `Actor` (see actor.py). The critic is a linear head for each kind of prompt on the reference's hidden states,
which the KL penalty needs anyway. With several processes each acts and learns on its share, and all of them know the whole.
Every draw is addressed by (seed, update, prompt, draw), so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from cai.artifacts import METRICS
from cai.errors import TrainError
from cai.modeling import memory
from cai.modeling.frozen_cache import FrozenCache
from cai.modeling.precision import matmul_dtype
from cai.modeling.tokenization import Renderer
from cai.progress import Progress
from cai.records import Prompt
from cai.seeds import rng
from cai.store import append_bytes, atomic_write, digest, truncate_torn_line
from cai.train import checkpoint, losses
from cai.train.distributed import all_reduce_max, all_reduce_sum, barrier, full_tensor, rank, shard, world_size
from cai.train.ppo.actor import Actor
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.experience import Experience, make_experience, minibatches
from cai.train.ppo.gather import gather_rollouts
from cai.train.ppo.prompt_sampler import sample_prompts, with_repeat_index
from cai.train.ppo.ptx import Ptx, Text, ptx_losses
from cai.train.ppo.reward_table import add_missing_eos_penalty, compute_rewards, reward_metrics, sum_rewards
from cai.train.ppo.rollout import RewardFn, Rollout, kinds_of, response_logprobs, sample_rollouts
from cai.train.signals import deferred_signals
from cai.train.tracking import Track, no_tracker


@dataclass
class Learner:
    """What changes during training."""

    actor: Actor
    optimizer: torch.optim.Optimizer
    kl_controller: losses.KLController
    average: list[Tensor] = field(default_factory=list)
    """Of the policy's weights over steps; empty unless the config asks for it."""

    def parameters(self) -> list[Tensor]:
        """All that a checkpoint has to hold."""
        return [*self.actor.trainable_parameters(), *self.actor.critic.parameters(), *self.average]


def learner(actor: Actor, config: PPOConfig) -> Learner:
    """A learner at its start."""
    learnt = actor.trainable_parameters()
    optimiser = torch.optim.AdamW(
        [
            {"params": learnt, "lr": config.learning_rate},
            {"params": list(actor.critic.parameters()), "lr": config.critic_learning_rate},
        ],
        eps=1e-5,
        weight_decay=0.0,
        foreach=False,  # the moments of all weights at once are copies that full fine-tuning has no room for
    )
    controller = losses.KLController(config.kl.coef, config.kl.target, config.kl.horizon)
    return Learner(actor, optimiser, controller, [p.detach().clone() for p in learnt] if config.ema else [])


def ppo(
    it: Learner,
    renderer: Renderer,
    prompts: Sequence[Prompt],
    score: RewardFn,
    config: PPOConfig,
    folder: Path,
    *,
    seed: int,
    progress: Progress,
    texts: Sequence[Text] = (),
    track: Track = no_tracker,
) -> list[dict[str, Any]]:
    """Train the actor's policy; metrics go to `folder/metrics.jsonl`, exact state to `folder/checkpoints`.

    `texts`: (prompt, reply) tokens for `config.ptx`. `track`: is told each update's metrics.
    With `config.ema`, the policy holds the averaged weights in the end.

    Told to stop (SIGINT, SIGTERM), it finishes the update, saves, and does then what the signal asks.

    Returns:
        The metrics of all updates, those before a kill included.

    Raises:
        KeyboardInterrupt: it was told to stop.
        StoreError: the folder's checkpoint is torn, or from other settings, another seed or other prompts.
        TrainError: every reward of an update is unknown, a number broke, or `config.ptx` has no text.
    """
    if config.ptx.coef and not texts:
        raise TrainError("ppo.ptx: there is no fine-tuning text to mix in; leave ptx out, or give it some")
    metrics_file, made = folder / METRICS, made_from(config, prompts, texts, seed)
    state = checkpoint.load(folder / "checkpoints", it.parameters(), it.optimizer, made)
    start = 0 if state is None else int(state["step"])
    if state is not None:
        it.kl_controller = losses.KLController(float(state["beta"]), config.kl.target, config.kl.horizon)
    history = _history(metrics_file, start)
    memory.mmap_large_tensors()
    with deferred_signals() as halt:
        for step in range(start, config.updates):
            progress(step, config.updates)
            memory.malloc_trim()
            told = _update(it, renderer, prompts, score, config, step, Ptx(texts, config, seed), seed)
            history.append(told)
            if rank() == 0:
                append_bytes(metrics_file, (json.dumps(told, allow_nan=False) + "\n").encode())
                track(step, told)
            stopped = bool(all_reduce_max(float(halt.number is not None)))
            if stopped or (step + 1) % config.save_every == 0 or step + 1 == config.updates:
                now = {"beta": it.kl_controller.beta, "made": made}
                checkpoint.save(folder / "checkpoints", step + 1, it.parameters(), it.optimizer, now)
            if stopped:
                halt.reraise()
    for parameter, mean in zip(it.actor.trainable_parameters(), it.average, strict=False):
        parameter.data.copy_(mean)
    progress(config.updates, config.updates)
    return history


def made_from(config: PPOConfig, prompts: Sequence[Prompt], texts: Sequence[Text], seed: int) -> str:
    """What a run's state depends on besides its weights. More updates, or other times to save, go on from the same state."""
    asked = [f"{prompt.id} {prompt.kind} {prompt.category}" for prompt in prompts]
    settings = config.model_dump_json(exclude={"updates", "save_every"})
    return digest(settings, str(seed), str(matmul_dtype()), str(len(texts)), *asked)


def _update(
    it: Learner,
    renderer: Renderer,
    prompts: Sequence[Prompt],
    score: RewardFn,
    config: PPOConfig,
    step: int,
    ptx: Ptx,
    seed: int,
) -> dict[str, Any]:
    """One update: act, judge, credit, learn. Its metrics."""
    chosen = sample_prompts(prompts, config.prompts, seed, step, config.shares)
    with it.actor.rollout_model() as sampler:
        own = sample_rollouts(  # 1 act
            sampler,
            renderer,
            shard(with_repeat_index(chosen)),
            replies=config.replies,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            seed=seed,
            step=step,
        )
    rollouts, table = gather_rollouts(
        own, add_missing_eos_penalty(compute_rewards(score, own), own, config), chosen, renderer, config
    )  # 2 judge
    known, totals = sum_rewards(table)
    batches = minibatches(len(known), config, rng(seed, "ppo", "minibatch", step))
    kept, learns = [rollouts[i] for i in known], step >= config.critic_warmup
    experience, told = make_experience(  # 3 credit
        it.actor, kept, totals, batches, renderer.pad_id, config, beta=it.kl_controller.beta, learns=learns
    )
    told |= learn(it, experience, renderer.pad_id, config, step, ptx)  # 4 learn
    told |= reward_metrics(table, rollouts, known, totals) | {"kl_coef": it.kl_controller.beta, "step": step}
    _refuse_broken(told)
    it.kl_controller = it.kl_controller.after(told["kl"], len(known))
    return told


def _history(file: Path, steps: int) -> list[dict[str, Any]]:
    """The first `steps` lines; what a kill left beyond them is cut."""
    if rank() == 0:
        truncate_torn_line(file)
    barrier()
    lines = file.read_text(encoding="utf-8").splitlines()[:steps] if file.exists() else []
    barrier()
    if rank() == 0:
        atomic_write(file, "".join(line + "\n" for line in lines))
    return [json.loads(line) for line in lines]


def learn(
    it: Learner, e: Experience, pad: int, config: PPOConfig, step: int = 0, ptx: Ptx | None = None
) -> dict[str, float | None]:
    """Passes of clipped policy and value updates; means of their metrics over minibatches."""
    seen: list[dict[str, float]] = []
    planned = config.epochs * len(e.batches)
    for number in range(planned):
        done = (step - config.critic_warmup) * config.epochs * config.minibatches + number
        it.optimizer.param_groups[0]["lr"] = config.learning_rate * warm(done, config.warmup)
        texts = ptx.draw(step, number) if ptx else []
        seen.append(_minibatch(it, e, number % len(e.batches), pad, config, texts, policy=step >= config.critic_warmup))
        if config.kl.stop is not None and seen[-1]["approx_kl"] > config.kl.stop:
            break
    means: dict[str, float | None] = {key: fmean(row[key] for row in seen) for key in seen[0]}
    return means | {"first_ratio_error": seen[0]["ratio_error"], "steps_taken": len(seen) / planned}


def warm(done: int, warmup: int) -> float:
    """The policy's learning rate after so many steps, as a share: from a tenth to all of it (arXiv:2203.02155 appendix C.4)."""
    return 1.0 if done >= warmup or not warmup else 0.1 + 0.9 * max(0, done) / warmup


def _minibatch(
    it: Learner, e: Experience, place: int, pad: int, config: PPOConfig, texts: list[Rollout], *, policy: bool
) -> dict[str, float]:
    """One optimiser step. `policy`: whether the policy learns too, or only the critic.

    Each cut weighs its mean over tokens by their part of the minibatch's, so that all cuts' sum is the mean over all.
    """
    it.optimizer.zero_grad()
    count, mine = sum(len(e.rollouts[i].reply_ids) for i in e.batches[place]), set(shard(e.batches[place]))
    told: defaultdict[str, float] = defaultdict(float)
    worst = 0.0
    for places, below in zip(e.own[place], e.below[place], strict=True):
        weight = sum(len(e.rollouts[i].reply_ids) for i in places if i in mine) / count
        found, error = _cut(it, e, places, below, weight, pad, config, policy=policy)
        for key, value in found.items():
            told[key] += value
        worst = max(worst, error)
    if texts and policy:
        for loss in ptx_losses(it.actor, texts, pad, config):
            told["ptx_loss"] += float(loss.detach())
            _back(it, config.ptx.coef * loss)
    sums = torch.tensor(list(told.values()), dtype=torch.float64)
    all_reduce_sum([sums])
    known = dict(zip(told, sums.tolist(), strict=True)) | {"ratio_error": all_reduce_max(worst)}
    _refuse_broken(known)  # before the step: weights that are no numbers would be saved over the last good ones
    return known | {"grad_norm": _step(it, config)}


def _refuse_broken(told: Mapping[str, float | None]) -> None:
    for name, value in told.items():
        if value is not None and not math.isfinite(value):
            raise TrainError(f"ppo: {name} is {value}; lower ppo.learning_rate, and run again from the last checkpoint")


def _cut(
    it: Learner, e: Experience, places: list[int], below: FrozenCache, weight: float, pad: int, config: PPOConfig, *, policy: bool
) -> tuple[dict[str, float], float]:
    """Gradients of a part of a minibatch; its part of the metrics, and the largest error of a ratio."""
    rollouts, voice = [e.rollouts[i] for i in places], it.actor.policy

    def packed(rows: list[Tensor] | dict[int, Tensor]) -> Tensor:
        return torch.cat([rows[i] for i in places])

    old_logp_N, advantage_N = packed(e.logps), packed(e.advantages)
    with torch.set_grad_enabled(policy):
        logp_N = e.first.pop() if e.first else response_logprobs(voice, rollouts, below, pad, config.temperature)
    policy_loss = weight * losses.policy_loss(logp_N, old_logp_N, advantage_N, config.clip)
    value_N = it.actor.critic(packed(e.states), kinds_of(rollouts, voice.device))
    value_loss = weight * losses.value_loss(value_N, packed(e.values), packed(e.returns), config.clip)
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
    (loss * (world_size() if it.actor.sharded else 1)).backward()  # type: ignore[no-untyped-call]


def _step(it: Learner, config: PPOConfig) -> float:
    """Gradients, summed over processes and clipped; one step; the average follows. Returns the policy's norm before clipping."""
    critic, learnt = list(it.actor.critic.parameters()), it.actor.trainable_parameters()
    all_reduce_sum([p.grad for p in [*critic, *learnt * (not it.actor.sharded)] if p.grad is not None])
    norm = float(full_tensor(nn.utils.clip_grad_norm_(learnt, config.max_grad_norm)))
    critic_norm = float(nn.utils.clip_grad_norm_(critic, config.max_grad_norm))
    _refuse_broken({"grad_norm": norm, "the critic's grad_norm": critic_norm})
    it.optimizer.step()
    with torch.no_grad():
        for mean, parameter in zip(it.average, learnt, strict=False):
            mean.lerp_(parameter, 1 - (config.ema or 0.0))
    return norm
