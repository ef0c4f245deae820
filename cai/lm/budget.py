"""What the calls of a run use, and where it has to stop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import Field

from cai.errors import BudgetError
from cai.lm.base import LM, Sample
from cai.records import Chat, FrozenModel


class Prices(FrozenModel):
    """Money per million tokens, in whatever currency you count; fractions are fine."""

    prompt: float = Field(0.0, ge=0)
    completion: float = Field(0.0, ge=0)

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass
class Budget:
    """Limits of one command, and what it has used so far. Answers taken from the request log use nothing."""

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
        return f"{self.calls:,}   tokens {self.prompt_tokens:,} + {self.completion_tokens:,}{cost}"

    def check(self) -> None:
        """Before a call.

        Raises:
            BudgetError: a limit is reached. Calls under way still come in and are kept.
        """
        hours = (time.monotonic() - self.started) / 3600
        for name, used, limit in (
            ("--max-cost", self.cost, self.max_cost),
            ("--max-tokens", self.tokens, self.max_tokens),
            ("--max-hours", hours, self.max_hours),
        ):
            if limit is not None and used >= limit:
                raise BudgetError(f"{name} {limit:g} is reached (used {used:.4g}); nothing is lost: run again to go on")

    def add(self, prompt_tokens: int, completion_tokens: int, prices: Prices) -> None:
        self.calls += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.cost += prices.cost(prompt_tokens, completion_tokens)


class MeteredLM:
    """An LM whose calls are counted against a budget."""

    def __init__(self, lm: LM, budget: Budget, prices: Prices) -> None:
        self.lm, self.budget, self.prices, self.fingerprint, self.max_concurrency = (
            lm,
            budget,
            prices,
            lm.fingerprint,
            lm.max_concurrency,
        )

    async def sample(self, chat: Chat, *, max_tokens: int, temperature: float, seed: int, stop: Sequence[str] = ()) -> Sample:
        self.budget.check()
        said = await self.lm.sample(chat, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop)
        self.budget.add(said.prompt_tokens, said.completion_tokens, self.prices)
        return said

    async def choice_logprobs(self, chat: Chat, choices: Sequence[str], *, prefill: str = "") -> list[float] | None:
        self.budget.check()
        found = await self.lm.choice_logprobs(chat, choices, prefill=prefill)
        self.budget.add(sum(len(m.content) // 4 + 4 for m in chat), 1, self.prices)
        return found

    async def aclose(self) -> None:
        await self.lm.aclose()
