"""Limits on the cost, tokens and hours of a run, and what its calls have used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import Field

from cai.errors import BudgetError
from cai.lm.base import LM, Sample, estimate_prompt_tokens
from cai.records import Chat, FrozenModel


class Prices(FrozenModel):
    """Money per million tokens, in any currency; fractions are fine."""

    prompt: float = Field(0.0, ge=0)
    completion: float = Field(0.0, ge=0)

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass
class Budget:
    """Limits of one command, and what it has used. Answers from the request log use nothing."""

    max_cost: float | None = None
    max_tokens: int | None = None
    max_hours: float | None = None
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def summary(self) -> str:
        """One line for the user."""
        cost = f", cost {self.cost:.4g}" if self.cost else ""
        tokens = f"{self.prompt_tokens:,} + {self.completion_tokens:,}"
        return f"{self.calls:,}   tokens {tokens}{cost}"

    def check(self) -> None:
        """Refuse a further call once a limit is reached.

        Raises:
            BudgetError: a limit is reached. Answers to calls in flight are still logged.
        """
        hours = (time.monotonic() - self.started) / 3600
        for option, used, limit in (
            ("--max-cost", self.cost, self.max_cost),
            ("--max-tokens", self.tokens, self.max_tokens),
            ("--max-hours", hours, self.max_hours),
        ):
            if limit is not None and used >= limit:
                raise BudgetError(
                    f"{option} {limit:g} is reached (used {used:.4g}); "
                    "nothing is lost: run again to resume"
                )

    def add(self, prompt_tokens: int, completion_tokens: int, prices: Prices) -> None:
        """Count one call."""
        self.calls += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.cost += prices.cost(prompt_tokens, completion_tokens)


class MeteredLM:
    """An LM whose calls are counted against a budget."""

    def __init__(self, lm: LM, budget: Budget, prices: Prices) -> None:
        self.lm = lm
        self.budget = budget
        self.prices = prices
        self.fingerprint = lm.fingerprint
        self.max_concurrency = lm.max_concurrency

    async def sample(
        self,
        chat: Chat,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> Sample:
        self.budget.check()
        sample = await self.lm.sample(
            chat, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop
        )
        self.budget.add(sample.prompt_tokens, sample.completion_tokens, self.prices)
        return sample

    async def choice_logprobs(
        self, chat: Chat, choices: Sequence[str], *, prefill: str = ""
    ) -> list[float] | None:
        self.budget.check()
        logprobs = await self.lm.choice_logprobs(chat, choices, prefill=prefill)
        prompt_tokens = estimate_prompt_tokens(message.content for message in chat)
        self.budget.add(prompt_tokens, 1, self.prices)
        return logprobs

    async def aclose(self) -> None:
        await self.lm.aclose()
