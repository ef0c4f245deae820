"""Which prompts an update of PPO is about: addressed by seed and step, in shares if that is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Annotated, get_args

from pydantic import StringConstraints

from cai.errors import TrainError
from cai.records import Kind, Prompt
from cai.seeds import rng

Share = Annotated[str, StringConstraints(pattern=rf"^({'|'.join(get_args(Kind))})(/.+)?$")]
"""A kind of prompts, or `kind/category`."""


def sample_prompts(
    prompts: Sequence[Prompt], count: int, seed: int, step: int, shares: Mapping[str, float] | None = None
) -> list[Prompt]:
    """The next `count` prompts of an endless row of shuffled passes over all of them; addressed by step.

    With `shares`, each named group has a row of its own and gets its part of `count`.

    Raises:
        TrainError: a group with a share has no prompt.
    """
    if not shares:
        return _passes(prompts, count, step, lambda epoch: rng(seed, "ppo", "prompts", epoch))
    chosen = []
    for name, part in allocate(shares, count).items():
        group = [prompt for prompt in prompts if _group(prompt, shares) == name]
        if not group:
            raise TrainError(f"ppo.shares: no training prompt is {name}")
        chosen += _passes(group, part, step, lambda epoch, name=name: rng(seed, "ppo", "prompts", name, epoch))  # type: ignore[misc]
    return chosen


def _group(prompt: Prompt, shares: Mapping[str, float]) -> str | None:
    """The key of `shares` that a prompt counts for: its kind and category where that has one, else its kind."""
    narrow = f"{prompt.kind}/{prompt.category}"
    return narrow if narrow in shares else prompt.kind


def _passes(prompts: Sequence[Prompt], count: int, step: int, stream: Callable[[int], Random]) -> list[Prompt]:
    places = [divmod(place, len(prompts)) for place in range(step * count, (step + 1) * count)]
    orders = {epoch: stream(epoch).sample(range(len(prompts)), len(prompts)) for epoch in {epoch for epoch, _ in places}}
    return [prompts[orders[epoch][spot]] for epoch, spot in places]


def with_repeat_index(prompts: Sequence[Prompt]) -> list[tuple[Prompt, int]]:
    """Each prompt with how often it came before it in the same update: the second time its replies are other draws."""
    before: Counter[str] = Counter()
    found = []
    for prompt in prompts:
        found.append((prompt, before[prompt.id]))
        before[prompt.id] += 1
    return found


def allocate(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """`count` split in proportion to `shares` by largest remainder."""
    exact = {kind: count * share / sum(shares.values()) for kind, share in shares.items()}
    parts = {kind: int(number) for kind, number in exact.items()}
    for kind in sorted(exact, key=lambda kind: parts[kind] - exact[kind])[: count - sum(parts.values())]:
        parts[kind] += 1
    return parts
