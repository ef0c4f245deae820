"""What PPO learns from: the policy's responses to prompts, and their rewards. A bandit, with one
response to a prompt and one reward (arXiv:2203.02155, section 3.5).
"""

from __future__ import annotations

from collections.abc import Sequence

from cai.errors import TrainError
from cai.modeling.out_of_memory import BatchLimit
from cai.modeling.tokenization import Renderer
from cai.records import Prompt
from cai.train.distributed import local_share
from cai.train.ppo.actor import Actor
from cai.train.ppo.config import RolloutConfig
from cai.train.ppo.gather import gather_rollouts, rollout_indices
from cai.train.ppo.reward_table import (
    ScoredRollouts,
    add_missing_eos_penalty,
    compute_rewards,
    sum_rewards,
)
from cai.train.ppo.rollout import SAMPLING, RewardFn, Rollout, RolloutRequest, sample_rollouts


class Environment:
    """Samples and rewards responses. Each process does its share, and holds all in the end.

    Args:
        actor: its policy answers.
        renderer: tokenizer and chat template of the policy.
        reward_fn: rollouts -> a table of named parts of the reward; None where a part is unknown.
    """

    def __init__(self, actor: Actor, renderer: Renderer, reward_fn: RewardFn) -> None:
        self.actor, self.renderer, self.reward_fn = actor, renderer, reward_fn
        self._limit = BatchLimit(SAMPLING, TrainError)

    def sample(self, requests: Sequence[RolloutRequest], config: RolloutConfig) -> list[Rollout]:
        """This process's share of the responses."""
        per_prompt = config.responses_per_prompt
        prompt_indices = local_share(range(len(requests) // per_prompt))
        local = [requests[i] for i in rollout_indices(prompt_indices, per_prompt)]
        with self.actor.rollout_model() as model:
            return sample_rollouts(model, self.renderer, local, config, self._limit)

    def score(
        self, rollouts: list[Rollout], prompts: Sequence[Prompt], config: RolloutConfig
    ) -> ScoredRollouts:
        """All processes' rollouts, each rewarded by the process that sampled it.

        Args:
            prompts: of all processes.

        Raises:
            TrainError: no rollout has a known reward, or a part of the table has the
                wrong length or a value that is not finite.
        """
        table = compute_rewards(self.reward_fn, rollouts)
        table = add_missing_eos_penalty(table, rollouts, config.missing_eos_penalty)
        rollouts, table = gather_rollouts(rollouts, table, prompts, self.renderer, config)
        return ScoredRollouts(rollouts, table, *sum_rewards(table), config.responses_per_prompt)
