"""Pairs of replies to compare: two draws of one model for one prompt, at one temperature, so that only the draw differs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pydantic import BaseModel, ConfigDict, Field

from cai.errors import UnansweredError
from cai.lm.base import LM
from cai.records import Pair, Prompt, Sampled
from cai.seeds import derive
from cai.store import together


class PairConfig(BaseModel):
    """How pairs are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(1.0, gt=0)
    max_tokens: int = Field(48, ge=1)
    prompts: int | None = Field(None, ge=1)
    """Pairs for only so many prompts, drawn evenly; None: for all."""


def pairer(subject: LM, config: PairConfig, seed: int) -> Callable[[Prompt], Awaitable[Pair]]:
    """The step that makes one `Pair` from one `Prompt`. Two equal draws stay a pair: the labeller counts them as unscored."""

    async def pair(prompt: Prompt) -> Pair:
        draws = [
            Sampled(
                model=subject.fingerprint,
                temperature=config.temperature,
                max_tokens=config.max_tokens,
                seed=derive(seed, "pair", prompt.id, number),
            )
            for number in (0, 1)
        ]
        asked = [subject.sample(prompt.chat, max_tokens=d.max_tokens, temperature=d.temperature, seed=d.seed) for d in draws]
        try:
            first, second = await together(asked)
        except UnansweredError as error:
            return Pair(source=prompt.id, chat=prompt.chat, first="", second="", unscored=f"no answer: {error}")
        return Pair(source=prompt.id, chat=prompt.chat, first=first.text, second=second.text, sampled=(draws[0], draws[1]))

    return pair
