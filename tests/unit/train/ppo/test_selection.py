"""Which of the sampled prompts an update learns from."""

from __future__ import annotations

from cai.records import Prompt, chat_of
from cai.train.ppo.config import RolloutConfig
from cai.train.ppo.critic import KINDS, Critic
from cai.train.ppo.reward_table import ScoredRollouts, text_metrics
from cai.train.ppo.rollout import Rollout
from cai.train.ppo.selection import informative_prompts, select_prompts, take_in_turns

PROMPT = Prompt(chat=chat_of(("user", "Hi")))


def scored(*rewards: float | None) -> ScoredRollouts:
    """Two responses a prompt."""
    rollouts = [Rollout(PROMPT, [1], [2], "x", True) for _ in rewards]
    known = {i: reward for i, reward in enumerate(rewards) if reward is not None}
    table: dict[str, list[float | None]] = {"reward": list(rewards)}
    return ScoredRollouts(rollouts, table, list(known), list(known.values()), 2)


def test_prompts_whose_rewards_differ() -> None:
    """The last prompt has one known reward, which differs from none."""
    rows = scored(1.0, 1.0, 1.0, 2.0, 1.0, 1.2, None, 3.0)
    assert informative_prompts(rows, 0.0) == [1, 2]
    assert informative_prompts(rows, 0.5) == [1]


def test_the_rollouts_of_some_prompts() -> None:
    kept = scored(1.0, None, 3.0, 4.0, 5.0, 6.0).of_prompts({0, 2})
    assert (kept.known_indices, kept.totals) == ([0, 4, 5], [1.0, 5.0, 6.0])
    assert kept.prompt_indices == [0, 2, 2]
    assert len(kept.rollouts) == 6


def test_an_update_learns_from_prompts_whose_rewards_differ() -> None:
    """With as many candidates as prompts, and where no rewards differ, it learns from all."""
    rows, prompts = scored(1.0, 2.0, 3.0, 3.0, 5.0, 6.0), [PROMPT] * 3
    config = RolloutConfig(prompts_per_update=2, candidates=1.5)
    assert select_prompts(rows, prompts, config, ()).prompt_indices == [0, 0, 2, 2]
    narrow = RolloutConfig(prompts_per_update=1, candidates=3)
    assert select_prompts(rows, prompts, narrow, ()).prompt_indices == [0, 0]
    assert select_prompts(rows, prompts, RolloutConfig(prompts_per_update=3), ()) is rows
    far_apart = RolloutConfig(prompts_per_update=2, candidates=1.5, min_gap=9.0)
    assert select_prompts(rows, prompts, far_apart, ()) is rows


def test_groups_take_turns() -> None:
    """Of group a come two, since b has only one."""
    groups = {0: "a", 1: "a", 2: "a", 5: "b", 7: None}
    assert take_in_turns(groups, 4) == {0, 5, 7, 1}
    assert take_in_turns(groups, 99) == set(groups)
    assert take_in_turns({}, 3) == set()


def test_signs_of_one_reply_to_everything() -> None:
    """Pairs: no way, no way, no yes: two of three differ. "no way" is two of three responses."""
    rollouts = [Rollout(PROMPT, [1], [2], text, True) for text in ("no way", "no way", "no yes")]
    metrics = text_metrics(rollouts)
    assert metrics == {"distinct_2": 2 / 3, "top_response": 2 / 3}


def test_the_critic_begins_at_the_mean_reward_of_each_kind() -> None:
    critic = Critic(4)
    critic.init_from_rewards(["benign", "benign", "disallowed"], [1.0, 2.0, -3.0])
    assert critic.head.bias.tolist() == [
        {"benign": 1.5, "disallowed": -3.0}.get(str(kind), 0.0) for kind in KINDS
    ]
