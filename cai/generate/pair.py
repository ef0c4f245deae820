"""Replies to compare: draws of one model for one prompt, at one temperature, so that only the draw differs."""

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

REMEMBERED = 4096
"""Replies kept for the other pairs of their prompt."""


class PairConfig(FrozenModel):
    """How pairs are drawn."""

    temperature: float = Field(1.0, gt=0)
    max_tokens: int = Field(48, ge=1)
    prompts: int | None = Field(None, ge=1)
    """Pairs for only so many prompts, drawn evenly; None: for all."""
    replies: int = Field(2, ge=2, le=16)
    """Replies per prompt (K of arXiv:2203.02155, section 3.4)."""
    pairs: int | None = Field(None, ge=1)
    """Pairs per prompt, drawn from all K (K - 1) / 2; None: all of them."""

    @property
    def per_prompt(self) -> int:
        """Pairs that a prompt gets."""
        every = self.replies * (self.replies - 1) // 2
        return every if self.pairs is None else min(self.pairs, every)


class PairItem(FrozenModel):
    """Two places among the replies to one prompt."""

    prompt: Prompt
    places: tuple[int, int]

    @property
    def id(self) -> str:
        return f"{self.prompt.id}/{self.places[0]}-{self.places[1]}"


def pair_items(prompts: Sequence[Prompt], config: PairConfig, seed: int) -> list[PairItem]:
    """What `pairer`'s step is called on, the pairs of a prompt one after the other."""
    every = list(combinations(range(config.replies), 2))
    return [
        PairItem(prompt=prompt, places=places)
        for prompt in prompts
        for places in sorted(rng(seed, "pairs", prompt.id).sample(every, config.per_prompt))
    ]


def paired_item(row: Pair) -> str:
    """`PairItem.id` of the item that a row came from."""
    return f"{row.source}/{row.places[0]}-{row.places[1]}"


def pairer(subject: LM, config: PairConfig, seed: int) -> Callable[[PairItem], Awaitable[Pair]]:
    """The step that makes one `Pair`. Each reply is drawn once, however many pairs it is in.

    Two equal draws stay a pair: the labeller counts them as unscored.
    """
    drawn: dict[tuple[str, int], asyncio.Future[Sample]] = {}

    def how(prompt: Prompt, number: int) -> Sampled:
        where = derive(seed, "pair", prompt.id, number)
        return Sampled(model=subject.fingerprint, temperature=config.temperature, max_tokens=config.max_tokens, seed=where)

    async def reply(prompt: Prompt, number: int) -> Sample:
        key = prompt.id, number
        if key not in drawn:
            d = how(prompt, number)
            asked = subject.sample(prompt.chat, max_tokens=d.max_tokens, temperature=d.temperature, seed=d.seed)
            drawn[key] = asyncio.ensure_future(asked)
            while len(drawn) > REMEMBERED:
                drawn.pop(next(iter(drawn)))
        return await asyncio.shield(drawn[key])

    async def pair(item: PairItem) -> Pair:
        prompt, (i, j) = item.prompt, item.places
        try:
            first, second = await gather([reply(prompt, i), reply(prompt, j)])
        except UnansweredError as error:
            why = f"no answer: {error}"
            return Pair(source=prompt.id, chat=prompt.chat, places=item.places, first="", second="", unscored=why)
        sampled = how(prompt, i), how(prompt, j)
        return Pair(source=prompt.id, chat=prompt.chat, places=item.places, first=first.text, second=second.text, sampled=sampled)

    return pair
