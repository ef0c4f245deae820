"""Reply pairs for comparison: samples of one model for one prompt that differ by the seed only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import combinations

from pydantic import Field

from cai.async_map import gather
from cai.errors import UnansweredError
from cai.lm.base import LM, Sample
from cai.records import FrozenModel, Pair, Prompt, Sampled
from cai.seeds import derive, rng

CACHED_REPLIES = 4096
"""Replies in memory for the other pairs of their prompt."""


class PairConfig(FrozenModel):
    """How pairs are drawn."""

    subject: str | None = None
    """Whose replies are compared: a model's spec, such as `local:runs/first/60-policy`, the policy
    of another run. None: the run's fine-tuned model.
    """
    temperature: float = Field(1.0, gt=0)
    max_tokens: int = Field(48, ge=1)
    prompts: int | None = Field(None, ge=1)
    """Number of prompts to draw pairs for, a random subset; None: all."""
    replies: int = Field(2, ge=2, le=16)
    """Replies per prompt (K of arXiv:2203.02155, section 3.4)."""
    pairs: int | None = Field(None, ge=1)
    """Pairs per prompt, a random subset of all K (K - 1) / 2; None: all of them."""

    @property
    def per_prompt(self) -> int:
        """Pairs per prompt."""
        possible = self.replies * (self.replies - 1) // 2
        return possible if self.pairs is None else min(self.pairs, possible)


class PairItem(FrozenModel):
    """One pair to draw."""

    prompt: Prompt
    indices: tuple[int, int]
    """Indices of the two replies among those to the prompt."""

    @property
    def id(self) -> str:
        return f"{self.prompt.id}/{self.indices[0]}-{self.indices[1]}"


def pair_items(prompts: Sequence[Prompt], config: PairConfig, seed: int) -> list[PairItem]:
    """The inputs of `pairer`'s step, with the pairs of a prompt in sequence."""
    possible = list(combinations(range(config.replies), 2))
    items: list[PairItem] = []
    for prompt in prompts:
        drawn = rng(seed, "pairs", prompt.id).sample(possible, config.per_prompt)
        items += [PairItem(prompt=prompt, indices=indices) for indices in sorted(drawn)]
    return items


def _retrieve(reply: asyncio.Future[Sample]) -> None:
    """Mark the exception of a reply as seen: no pair waits for it if the other reply failed first.

    asyncio would print it, with a traceback, when it is collected.
    """
    if not reply.cancelled():
        reply.exception()


def paired_item(row: Pair) -> str:
    """`PairItem.id` of the item that a row came from."""
    return f"{row.source}/{row.places[0]}-{row.places[1]}"


def pairer(subject: LM, config: PairConfig, seed: int) -> Callable[[PairItem], Awaitable[Pair]]:
    """The step that makes one `Pair`. Each reply is sampled once, however many pairs hold it.

    Two equal replies stay a pair: the labeller counts them as unscored.
    """
    replies: dict[tuple[str, int], asyncio.Future[Sample]] = {}

    def sampling(prompt: Prompt, index: int) -> Sampled:
        return Sampled(
            model=subject.fingerprint,
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            seed=derive(seed, "pair", prompt.id, index),
        )

    async def reply(prompt: Prompt, index: int) -> Sample:
        key = (prompt.id, index)
        if key not in replies:
            drawn = sampling(prompt, index)
            request = subject.sample(
                prompt.chat,
                max_tokens=drawn.max_tokens,
                temperature=drawn.temperature,
                seed=drawn.seed,
            )
            replies[key] = asyncio.ensure_future(request)
            replies[key].add_done_callback(_retrieve)
            while len(replies) > CACHED_REPLIES:
                oldest = next(iter(replies))
                del replies[oldest]
        return await asyncio.shield(replies[key])

    async def pair(item: PairItem) -> Pair:
        prompt, indices = item.prompt, item.indices
        try:
            first, second = await gather([reply(prompt, index) for index in indices])
        except UnansweredError as error:
            return Pair(
                source=prompt.id,
                chat=prompt.chat,
                places=indices,
                first="",
                second="",
                unscored=error.reason,
            )
        return Pair(
            source=prompt.id,
            chat=prompt.chat,
            places=indices,
            first=first.text,
            second=second.text,
            sampled=(sampling(prompt, indices[0]), sampling(prompt, indices[1])),
        )

    return pair
