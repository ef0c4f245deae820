"""Which of an update's prompts it learns from."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Mapping, Sequence

from cai.records import Prompt
from cai.train.ppo.config import RolloutConfig
from cai.train.ppo.prompt_sampler import group_of
from cai.train.ppo.reward_table import ScoredRollouts


def select_prompts(
    scored: ScoredRollouts,
    prompts: Sequence[Prompt],
    config: RolloutConfig,
    groups: Container[str],
) -> ScoredRollouts:
    """The rollouts to learn from: with `candidates` above 1, those of prompts whose rewards differ,
    equally many of each group. Where no prompt's do, all.
    """
    informative = informative_prompts(scored, config.min_gap)
    if config.candidates == 1 or not informative:
        return scored
    group_by_prompt = {i: group_of(prompts[i], groups) for i in informative}
    return scored.of_prompts(take_in_turns(group_by_prompt, config.prompts_per_update))


def informative_prompts(scored: ScoredRollouts, min_gap: float) -> list[int]:
    """Those of the update's prompts whose known rewards lie further apart than `min_gap`."""
    rewards: dict[int, list[float]] = {}
    for prompt, total in zip(scored.prompt_indices, scored.totals, strict=True):
        rewards.setdefault(prompt, []).append(total)
    return [prompt for prompt, values in rewards.items() if max(values) - min(values) > min_gap]


def take_in_turns(prompts: Mapping[int, str | None], count: int) -> set[int]:
    """At most `count` of the prompts, equally many of each group as far as there are.

    Args:
        prompts: prompt -> its group; earlier ones of a group are taken first.
    """
    queues: dict[str | None, deque[int]] = {}
    for prompt, group in prompts.items():
        queues.setdefault(group, deque()).append(prompt)
    taken: set[int] = set()
    while len(taken) < min(count, len(prompts)):
        for queue in queues.values():
            if queue and len(taken) < count:
                taken.add(queue.popleft())
    return taken
