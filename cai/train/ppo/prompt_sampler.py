"""Prompts of each PPO update, addressed by seed and update, in shares of kinds and categories where
configured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from random import Random
from typing import Annotated, Protocol, get_args

from pydantic import StringConstraints

from cai.errors import TrainError
from cai.records import Kind, Prompt
from cai.seeds import rng

Share = Annotated[str, StringConstraints(pattern=rf"^({'|'.join(get_args(Kind))})(/.+)?$")]
"""A kind of prompts, or `kind/category`."""


class HasKind(Protocol):
    """A prompt, or a row about one."""

    @property
    def kind(self) -> Kind | None: ...
    @property
    def category(self) -> str | None: ...


def sample_prompts(
    prompts: Sequence[Prompt],
    count: int,
    seed: int,
    update: int,
    shares: Mapping[str, float] | None = None,
) -> list[Prompt]:
    """The next `count` prompts of an endless sequence of shuffled epochs over all of them.

    With `shares`, each named group has a row of its own and gets its part of `count`.

    Raises:
        TrainError: a group with a share has no prompt.
    """
    if not shares:
        return _next_in_passes(
            prompts, count, update, lambda epoch: rng(seed, "ppo", "prompts", epoch)
        )
    batch = []
    for name, part in allocate(shares, count).items():
        group = [prompt for prompt in prompts if group_of(prompt, shares) == name]
        if not group:
            raise TrainError(
                f"ppo: no training prompt is {name}, which rollout.shares or balance.targets names:"
                " leave it out there, or add such prompts"
            )

        def stream(epoch: int, name: str = name) -> Random:
            return rng(seed, "ppo", "prompts", name, epoch)

        batch += _next_in_passes(group, part, update, stream)
    return batch


def group_of(prompt: HasKind, names: Container[str]) -> str | None:
    """The one of `names` that a prompt counts for: its kind and category where that is one, else
    its kind.
    """
    category = f"{prompt.kind}/{prompt.category}"
    return category if category in names else prompt.kind


def _next_in_passes(
    prompts: Sequence[Prompt], count: int, update: int, stream: Callable[[int], Random]
) -> list[Prompt]:
    positions = [divmod(i, len(prompts)) for i in range(update * count, (update + 1) * count)]
    epochs = {epoch for epoch, _ in positions}
    orders = {epoch: stream(epoch).sample(range(len(prompts)), len(prompts)) for epoch in epochs}
    return [prompts[orders[epoch][i]] for epoch, i in positions]


def with_repeat_index(prompts: Sequence[Prompt]) -> list[tuple[Prompt, int]]:
    """Each prompt with the number of times it occurred before in the same update."""
    before: Counter[str] = Counter()
    indexed = []
    for prompt in prompts:
        indexed.append((prompt, before[prompt.id]))
        before[prompt.id] += 1
    return indexed


def allocate(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """`count` split in proportion to `shares` by largest remainder."""
    exact = {name: count * share / sum(shares.values()) for name, share in shares.items()}
    parts = {name: int(number) for name, number in exact.items()}
    by_remainder = sorted(exact, key=lambda name: parts[name] - exact[name])
    for name in by_remainder[: count - sum(parts.values())]:
        parts[name] += 1
    return parts
