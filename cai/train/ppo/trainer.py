"""Proximal policy optimization with KL control.

The papers: arXiv:2203.02155 section 3.5, arXiv:1506.02438, arXiv:1707.06347, arXiv:1909.08593.
The formulas are in `cai.train.losses`; this file is the order in which they happen. With several
processes each samples and learns on its share, and holds the whole batch's
rollouts, rewards and advantages. Every draw is
addressed by (seed, update, prompt, draw), so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from cai.artifacts import METRICS
from cai.errors import TrainError, UsageError
from cai.modeling import memory
from cai.modeling.loading import window_of
from cai.modeling.model_files import training_weights
from cai.modeling.tokenization import Renderer, load_renderer
from cai.records import Prompt
from cai.reward import hacking
from cai.seeds import rng
from cai.store import append_bytes
from cai.train import checkpoint, losses
from cai.train.distributed import (
    all_reduce_max,
    local_share,
    rank,
)
from cai.train.ppo import steps
from cai.train.ppo.actor import Actor, build_actor
from cai.train.ppo.balance import Balance, balance_metrics, failure_rates
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.experience import (
    Experience,
    RewardTerms,
    experience_metrics,
    forward_models,
    make_experience,
    random_partition,
    split_minibatches,
)
from cai.train.ppo.gather import gather_rollouts, rollout_indices
from cai.train.ppo.learner import Learner, Metrics
from cai.train.ppo.prompt_sampler import sample_prompts
from cai.train.ppo.ptx import PtxText
from cai.train.ppo.resume import read_history, state_digest
from cai.train.ppo.reward_table import (
    ScoredRollouts,
    add_missing_eos_penalty,
    compute_rewards,
    reward_metrics,
    sum_rewards,
    text_metrics,
)
from cai.train.ppo.rollout import (
    RewardFn,
    Rollout,
    rollout_requests,
    sample_rollouts,
)
from cai.train.ppo.save import save_policy
from cai.train.ppo.selection import select_prompts
from cai.train.ppo.window import within_window
from cai.train.signals import deferred_signals
from cai.train.tracking import Track, no_tracker

CHECKPOINTS = "checkpoints"


class PPOTrainer:
    """The PPO training loop and its state.

    Args:
        actor: policy, reference policy and critic.
        renderer: tokenizer and chat template of the policy.
        reward_fn: rollouts -> a table of named parts of the reward; None where a part is unknown.
        config: see `PPOConfig`.
        seed: all draws follow from it.

    Example:
        >>> trainer = PPOTrainer.from_pretrained("smollm2", reward_fn, PPOConfig(num_updates=2))
        >>> history = trainer.train(prompts, Path("policy"))
        >>> history[-1]["reward"], history[-1]["kl"]
        >>> trainer.save_policy("policy/model")
    """

    weights: str | None = None
    """Folder or hub id of the model that the policy began as; `from_pretrained` sets it."""
    left_out: Mapping[str, int] = MappingProxyType({})
    """Reason -> prompts or texts that `train` left out."""

    def __init__(
        self,
        actor: Actor,
        renderer: Renderer,
        reward_fn: RewardFn,
        config: PPOConfig,
        seed: int = 0,
    ) -> None:
        self.actor, self.renderer, self.reward_fn = actor, renderer, reward_fn
        self.config, self.seed = config, seed
        self.learner = Learner(actor, config, seed)
        self.kl_controller = losses.KLController(
            config.kl.coef, config.kl.target, config.kl.horizon
        )
        self.balance = Balance()

    @classmethod
    def from_pretrained(
        cls, model: str, reward_fn: RewardFn, config: PPOConfig, seed: int = 0
    ) -> PPOTrainer:
        """A trainer whose policy and reference policy begin as `model`.

        Args:
            model: `smollm2` or `local:FOLDER_OR_HUB_ID`.
            reward_fn, config: see the class.
            seed: of the adapter's first weights, and of all draws.

        Raises:
            UsageError: an endpoint or a fake, which has no weights to train; no such folder; or
                the critic is to start as a preference model, which there is none of.
        """
        if config.critic == "reward":
            raise UsageError(
                "ppo.critic: reward starts the critic as a preference model, and there is none: "
                "give critic='reference'"
            )
        weights = training_weights(model)
        torch.manual_seed(seed)
        actor, _ = build_actor(config, weights, None)
        trainer = cls(actor, load_renderer(weights), reward_fn, config, seed)
        trainer.weights = weights
        return trainer

    def train(
        self,
        prompts: Sequence[Prompt],
        folder: Path,
        texts: Sequence[PtxText] = (),
        on_update: Track = no_tracker,
    ) -> list[Metrics]:
        """Run all updates; metrics go to `folder/metrics.jsonl`, exact state to
        `folder/checkpoints`.

        At SIGINT or SIGTERM the update is finished and saved first. With `ema_decay`, the policy
        holds the averaged weights in the end.

        Prompts that do not fit the policy's window with a response are left out, and counted in
        `left_out`; so are texts.

        Args:
            prompts: training prompts; each update samples from them.
            folder: made if there is none; training resumes from a checkpoint in it.
            texts: (prompt, reply) tokens, mixed in where `config.ptx` asks for it.
            on_update: called with (update, its metrics).

        Returns:
            The metrics of all updates, those before a kill included.

        Raises:
            KeyboardInterrupt: SIGINT or SIGTERM arrived.
            StoreError: the folder's checkpoint is torn, or from other settings, another seed or
                other prompts.
            TrainError: every reward of an update is unknown, a number is not finite, or
                `config.ptx` has no text.
        """
        if self.config.ptx.coef and not texts:
            raise TrainError(
                "ppo.ptx: there is no fine-tuning text to mix in; leave ptx out, or give it some"
            )
        window = window_of(self.actor.module.model.config)
        prompts, texts, self.left_out = within_window(
            prompts, texts, self.renderer, self.config.rollout.max_new_tokens, window
        )
        folder.mkdir(parents=True, exist_ok=True)
        digest = state_digest(self.config, prompts, texts, self.seed)
        start = self._load_checkpoint(folder, digest)
        history = read_history(folder / METRICS, start)
        memory.mmap_large_tensors()
        with deferred_signals() as signal:
            for update in range(start, self.config.num_updates):
                memory.malloc_trim()
                metrics = self.train_step(prompts, update, texts)
                history.append(metrics)
                metrics["hacking_signs"] = len(hacking.signs(history[0], metrics))
                if rank() == 0:
                    hacking.warn_of_new_signs(history)
                    append_bytes(
                        folder / METRICS, (json.dumps(metrics, allow_nan=False) + "\n").encode()
                    )
                on_update(update, metrics)
                stopping = bool(all_reduce_max(float(signal.number is not None)))
                if stopping or self._should_save(update):
                    self._save_checkpoint(folder, update + 1, digest)
                if stopping:
                    signal.reraise()
        self.learner.use_ema_weights()
        return history

    def save_policy(self, folder: str | Path) -> None:
        """Write the policy as a plain model with its tokenizer. All processes call it.

        Raises:
            UsageError: the trainer is not of `from_pretrained`, so the base is unknown.
        """
        if self.weights is None:
            raise UsageError(
                "save_policy: only a trainer of from_pretrained knows its base: "
                "call cai.train.ppo.save.save_policy"
            )
        save_policy(self.actor, self.renderer, self.weights, Path(folder))

    # ---- an update ----

    def train_step(
        self, prompts: Sequence[Prompt], update: int, texts: Sequence[PtxText] = ()
    ) -> Metrics:
        """One update; its metrics."""
        config, targets = self.config.rollout, self.config.balance.targets
        shares = config.shares or dict.fromkeys(targets, 1.0) or None
        batch = sample_prompts(prompts, config.candidate_prompts, self.seed, update, shares)
        rollouts = self.sample_rollouts(batch, update)  # 1 act
        scored = self.score_rollouts(rollouts, batch)  # 2 judge
        if update == 0 and self.config.critic == "reference":
            kinds = [rollout.prompt.kind for rollout in scored.known_rollouts]
            self.actor.critic.init_from_rewards(kinds, scored.totals)
        learnt = select_prompts(scored, batch, config, config.shares or targets)
        experience, first_logp_N = self.make_experience(learnt, update)  # 3 credit
        metrics = self.learner.optimize(experience, first_logp_N, texts)  # 4 learn
        metrics |= experience_metrics(experience) | reward_metrics(scored)
        metrics |= text_metrics(scored.rollouts)
        metrics |= balance_metrics(self.balance, scored, self.config.balance)
        episodes = len(learnt.known_indices)
        metrics |= {"kl_coef": self.kl_controller.beta, "update": update}
        metrics["learnt_episodes"] = episodes
        steps.check_finite(metrics)
        self.kl_controller = self.kl_controller.updated(metrics["kl"], episodes)
        self.balance = self.balance.updated(
            failure_rates(scored, self.config.balance), self.config.balance
        )
        return metrics

    def sample_rollouts(self, prompts: Sequence[Prompt], update: int) -> list[Rollout]:
        """Sample this process's share of an update's responses from the policy."""
        per_prompt = self.config.rollout.responses_per_prompt
        requests = rollout_requests(prompts, per_prompt, self.seed, update)
        local = [requests[i] for i in rollout_indices(local_share(range(len(prompts))), per_prompt)]
        with self.actor.rollout_model() as model:
            return sample_rollouts(model, self.renderer, local, self.config.rollout)

    def score_rollouts(self, rollouts: list[Rollout], prompts: Sequence[Prompt]) -> ScoredRollouts:
        """Reward this process's rollouts, and gather those of all processes.

        Raises:
            TrainError: no rollout has a known reward, or a part of the table has the
                wrong length or a value that is not finite.
        """
        config = self.config.rollout
        table = compute_rewards(self.reward_fn, rollouts)
        table = add_missing_eos_penalty(table, rollouts, config.missing_eos_penalty)
        rollouts, table = gather_rollouts(rollouts, table, prompts, self.renderer, config)
        return ScoredRollouts(rollouts, table, *sum_rewards(table), config.responses_per_prompt)

    def make_experience(self, scored: ScoredRollouts, update: int) -> tuple[Experience, Tensor]:
        """Experience of the rollouts with known rewards, and the first micro-batch's
        log-probabilities with their graph.
        """
        rollouts, config = scored.known_rollouts, self.config
        stream = rng(self.seed, "ppo", "minibatch", update)
        parts = random_partition(len(rollouts), config.optimization.num_minibatches, stream)
        minibatches = split_minibatches(rollouts, parts, self.actor, config)
        train_policy = self.learner.trains_policy(update)
        outputs = forward_models(
            self.actor,
            rollouts,
            minibatches,
            config.rollout.temperature,
            train_policy=train_policy,
        )
        weights = None
        if config.balance.targets:
            weights = self.balance.rollout_weights([r.prompt for r in rollouts], config.balance)
        terms = RewardTerms(self.kl_controller.beta, weights)
        experience = make_experience(scored, minibatches, outputs, config.advantage, terms)
        return replace(experience, update=update), outputs.first_logp_N

    # ---- state ----

    def _should_save(self, update: int) -> bool:
        return (update + 1) % self.config.save_every == 0 or update + 1 == self.config.num_updates

    def _load_checkpoint(self, folder: Path, digest: str) -> int:
        """Continue from the newest checkpoint; the number of updates done."""
        state = checkpoint.load(
            folder / CHECKPOINTS, self.learner.state_tensors(), self.learner.optimizer, digest
        )
        if state is None:
            return 0
        self.kl_controller = replace(self.kl_controller, beta=float(state["beta"]))
        self.balance = Balance(**state["balance"])
        return int(state["step"])

    def _save_checkpoint(self, folder: Path, done: int, digest: str) -> None:
        state = {
            "beta": self.kl_controller.beta,
            "balance": asdict(self.balance),
            "state_digest": digest,
        }
        checkpoint.save(
            folder / CHECKPOINTS, done, self.learner.state_tensors(), self.learner.optimizer, state
        )
