"""Proximal policy optimization with KL control.

The papers: arXiv:2203.02155 section 3.5, arXiv:1506.02438, arXiv:1707.06347, arXiv:1909.08593.
The formulas are in `cai.train.losses`; this file is the order in which they happen. With several
processes each samples and learns on its share, and holds the whole batch's
rollouts, rewards and advantages. Every draw is
addressed by (seed, update, prompt, draw), so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

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
from cai.seeds import rng
from cai.store import CHECKPOINTS
from cai.train import checkpoint, losses
from cai.train.distributed import (
    all_reduce_max,
)
from cai.train.ppo import steps
from cai.train.ppo.actor import Actor, build_actor
from cai.train.ppo.balance import Balance, balance_metrics, failure_rates
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.environment import Environment
from cai.train.ppo.experience import (
    Experience,
    Minibatch,
    ModelOutputs,
    RewardTerms,
    experience_metrics,
    forward_models,
    make_experience,
    random_partition,
    split_minibatches,
    start_critic,
)
from cai.train.ppo.learner import Learner, Metrics
from cai.train.ppo.prompt_sampler import sample_prompts
from cai.train.ppo.ptx import PtxText
from cai.train.ppo.resume import append_update, read_history, state_digest
from cai.train.ppo.reward_table import (
    ScoredRollouts,
    reward_metrics,
    text_metrics,
)
from cai.train.ppo.rollout import (
    RewardFn,
    rollout_requests,
)
from cai.train.ppo.save import save_policy
from cai.train.ppo.selection import select_prompts
from cai.train.ppo.validation import Validation, validation_requests
from cai.train.ppo.window import within_window
from cai.train.signals import deferred_signals
from cai.train.tracking import Track, no_tracker


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
        self.actor, self.renderer = actor, renderer
        self.environment = Environment(actor, renderer, reward_fn)
        self.config, self.seed = config, seed
        self.learner = Learner(actor, config, seed)
        self.kl_controller = losses.KLController(
            config.kl.coef, config.kl.target, config.kl_horizon
        )
        self.balance = Balance()
        self.validation: Validation | None = None

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
                the critic is to start as a preference model, or the reference to be another model,
                which there is none of.
        """
        if config.critic == "reward":
            raise UsageError(
                "ppo.critic: reward starts the critic as a preference model, and there is none: "
                "give critic='reference'"
            )
        if config.reference == "base":
            raise UsageError(
                "ppo.reference: base is the model that a run fine-tuned, and there is only one "
                "here: give reference='sft'"
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
        validation_prompts: Sequence[Prompt] = (),
    ) -> list[Metrics]:
        """Run all updates; metrics go to `folder/metrics.jsonl`, exact state to
        `folder/checkpoints`.

        At SIGINT or SIGTERM the update is finished and saved first. With `ema_decay`, the policy
        holds the averaged weights in the end. With validation prompts it holds those (averaged)
        weights that did best on them, and `folder/validation.jsonl` has a line for each try.

        Prompts that do not fit the policy's window with a response are left out, and counted in
        `left_out`; so are texts.

        Args:
            prompts: training prompts; each update samples from them.
            folder: made if there is none; training resumes from a checkpoint in it.
            texts: (prompt, reply) tokens, mixed in where `config.ptx` asks for it.
            on_update: called with (update, its metrics).
            validation_prompts: nothing is learnt from them; see `ValidationConfig`.

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
        size = self.config.rollout.max_new_tokens
        prompts, texts, self.left_out = within_window(prompts, texts, self.renderer, size, window)
        if validation_prompts:
            validation_prompts, _, _ = within_window(
                validation_prompts, (), self.renderer, size, window
            )
            weights = [p.detach().clone() for p in self.actor.trainable_parameters()]
            self.validation = Validation(weights)
        folder.mkdir(parents=True, exist_ok=True)
        digest = state_digest(self.config, [*prompts, *validation_prompts], texts, self.seed)
        start = self._load_checkpoint(folder, digest)
        history = read_history(folder / METRICS, start)
        memory.mmap_large_tensors()
        with deferred_signals() as signal:
            if self.validation and not self.validation.history:
                self._validate(validation_prompts, 0, folder)
            for update in range(start, self.config.num_updates):
                memory.malloc_trim()
                metrics = self.train_step(prompts, update, texts)
                append_update(folder / METRICS, history, metrics)
                on_update(update, metrics)
                if self._due(update, self.config.validation.every):
                    self._validate(validation_prompts, update + 1, folder)
                stopping = bool(all_reduce_max(float(signal.number is not None)))
                if stopping or self._due(update, self.config.save_every):
                    self._save_checkpoint(folder, update + 1, digest)
                if stopping:
                    signal.reraise()
        self.learner.use_ema_weights()
        if self.validation:
            self.learner.set_weights(self.validation.weights)
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
        requests = rollout_requests(batch, config.responses_per_prompt, self.seed, update)
        rollouts = self.environment.sample(requests, config)  # 1 act
        scored = self.environment.score(rollouts, batch, config)  # 2 judge
        learnt = select_prompts(scored, batch, config, config.shares or targets)
        if update == 0:
            scale_rewards = self.config.advantage.scale_rewards
            start_critic(self.actor.critic, scored, learnt, scale_rewards=scale_rewards)
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
        if self.validation is None:
            rates = failure_rates(scored, self.config.balance)
            self.balance = self.balance.updated(rates, self.config.balance)
        return metrics

    def _validate(self, prompts: Sequence[Prompt], updates: int, folder: Path) -> None:
        """Answer the validation prompts; the balance follows them, as nothing was learnt there."""
        if self.validation is None:
            return
        draws = self.config.validation.draws
        config = self.config.rollout.model_copy(update={"responses_per_prompt": draws})
        requests = validation_requests(prompts, draws, self.seed)
        with self.learner.ema_weights_in_use() as weights:
            rollouts = self.environment.sample(requests, config)
            scored = self.environment.score(rollouts, prompts, config)
            rates = self.validation.record(updates, scored, self.config.balance, weights)
        self.balance = self.balance.updated(rates, self.config.balance)
        self.validation.write(folder)

    def make_experience(self, scored: ScoredRollouts, update: int) -> tuple[Experience, Tensor]:
        """Experience of the rollouts with known rewards, and the first micro-batch's
        log-probabilities with their graph.
        """
        rollouts, config = scored.known_rollouts, self.config
        stream = rng(self.seed, "ppo", "minibatch", update)
        parts = random_partition(len(rollouts), config.optimization.num_minibatches, stream)

        def forward(size: int) -> tuple[list[Minibatch], ModelOutputs]:
            minibatches = split_minibatches(rollouts, parts, self.actor, config, size)
            return minibatches, forward_models(
                self.actor,
                rollouts,
                minibatches,
                config.rollout.temperature,
                train_policy=self.learner.trains_policy(update),
            )

        minibatches, outputs = self.learner.in_micro_batches(forward)
        weights = None
        if config.balance.targets:
            weights = self.balance.rollout_weights([r.prompt for r in rollouts], config.balance)
        terms = RewardTerms(self.kl_controller.beta, weights)
        experience = make_experience(scored, minibatches, outputs, config.advantage, terms)
        return replace(experience, update=update), outputs.first_logp_N

    # ---- state ----

    def _due(self, update: int, every: int) -> bool:
        return (update + 1) % every == 0 or update + 1 == self.config.num_updates

    def _load_checkpoint(self, folder: Path, digest: str) -> int:
        """Continue from the newest checkpoint; the number of updates done."""
        state = checkpoint.load(
            folder / CHECKPOINTS, self._state_tensors(), self.learner.optimizer, digest
        )
        if state is None:
            return 0
        self.kl_controller = replace(self.kl_controller, beta=float(state["beta"]))
        self.balance = Balance(**state["balance"])
        if self.validation:
            self.validation.history = state["validation"]
            self.validation.write(folder)
        return int(state["step"])

    def _save_checkpoint(self, folder: Path, done: int, digest: str) -> None:
        state = {
            "beta": self.kl_controller.beta,
            "balance": asdict(self.balance),
            "validation": self.validation.history if self.validation else [],
            "state_digest": digest,
        }
        checkpoint.save(
            folder / CHECKPOINTS, done, self._state_tensors(), self.learner.optimizer, state
        )

    def _state_tensors(self) -> list[Tensor]:
        best = self.validation.weights if self.validation else []
        return [*self.learner.state_tensors(), *best]
