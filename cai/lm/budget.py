"""Limits on the cost, tokens and hours of a run, and what its calls have used.

A call reserves what it may take before it leaves, and settles by what the server counted. So calls
that leave together cannot exceed a limit that each of them alone would keep.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import Field

from cai.errors import BudgetError
from cai.lm.base import CHARGES, Sample, Usage
from cai.lm.http import HttpLM
from cai.records import Chat, FrozenModel

RESUME = "nothing is lost: run again to resume"


class Prices(FrozenModel):
    """Money per million tokens, in any currency; fractions are fine."""

    prompt: float = Field(0.0, ge=0)
    completion: float = Field(0.0, ge=0)
    batch: float = Field(0.5, gt=0, le=1)
    """What a batch queue charges of these prices; vendors charge half. See `cai batch`."""

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class Reservation(NamedTuple):
    """What a call under way may take."""

    estimate: Usage
    """By the length of its prompt and the limit of its reply."""
    tokens: float
    cost: float


@dataclass
class Budget:
    """Limits of one command, and what it has used. Answers from the request log use nothing."""

    max_cost: float | None = None
    max_tokens: int | None = None
    max_hours: float | None = None
    calls: int = 0
    refused: int = 0
    """Answers among them that were paid for and are of no use."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    started: float = field(default_factory=time.monotonic)
    _under_way: list[Reservation] = field(default_factory=list, repr=False)
    _waiting: list[asyncio.Future[None]] = field(default_factory=list, repr=False)
    _estimated_prompt_tokens: int = field(default=0, repr=False)
    _most_completion: dict[int, int] = field(default_factory=dict, repr=False)
    """Limit of a reply -> most completion tokens that one was charged with."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def summary(self) -> str:
        """One line for the user."""
        cost = f", cost {self.cost:.4g}" if self.cost else ""
        refused = f", {self.refused:,} answers refused" if self.refused else ""
        tokens = f"{self.prompt_tokens:,} + {self.completion_tokens:,}"
        return f"{self.calls:,}   tokens {tokens}{cost}{refused}"

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
                raise BudgetError(f"{option} {limit:g} is reached (used {used:.4g}); {RESUME}")

    async def reserve(self, estimate: Usage, prices: Prices) -> Reservation:
        """Wait until a call fits under the limits with all calls under way.

        The first call under a limit leaves alone: it shows how the server counts. A call that
        might exceed a limit by a reply of full length leaves alone too, if replies were shorter.

        Raises:
            BudgetError: it does not fit, and no call is under way that might take less than it
                may.
        """
        is_limited = self.max_cost is not None or self.max_tokens is not None
        while True:
            self.check()
            reservation = self._reservation(estimate, prices, is_alone=not self._under_way)
            problem = self._excess(reservation) if is_limited else None
            is_first = is_limited and self.calls == 0
            if problem is None and not (is_first and self._under_way):
                self._under_way.append(reservation)
                return reservation
            if problem is not None and not self._under_way:
                raise BudgetError(problem)
            settled = asyncio.get_running_loop().create_future()
            self._waiting.append(settled)
            await settled

    def settle(self, reservation: Reservation, usage: Usage | None, prices: Prices) -> None:
        """End a call under way.

        Args:
            usage: what it is charged with; None: it was not answered, and costs nothing.
        """
        self._under_way.remove(reservation)
        if usage is not None:
            self._estimated_prompt_tokens += reservation.estimate[0]
            limit = reservation.estimate[1]
            self._most_completion[limit] = max(usage[1], self._most_completion.get(limit, 0))
            self.add(*usage, prices)
        waiting, self._waiting = self._waiting, []
        for settled in waiting:
            # futures of a loop that was stopped have nobody to wake
            if not settled.done() and not settled.get_loop().is_closed():
                settled.set_result(None)

    def add(self, prompt_tokens: int, completion_tokens: int, prices: Prices) -> None:
        """Count one call."""
        self.calls += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.cost += prices.cost(prompt_tokens, completion_tokens)

    def _reservation(self, estimate: Usage, prices: Prices, *, is_alone: bool) -> Reservation:
        """The estimate, corrected by how far the answers so far exceeded theirs."""
        ratio = 1.0
        if self._estimated_prompt_tokens:
            ratio = max(1.0, self.prompt_tokens / self._estimated_prompt_tokens)
        prompt_tokens = estimate[0] * ratio
        completion_tokens = self._most_completion.get(estimate[1], estimate[1])
        if not is_alone:
            completion_tokens = max(completion_tokens, estimate[1])
        cost = prices.cost(prompt_tokens, completion_tokens)
        return Reservation(estimate, prompt_tokens + completion_tokens, cost)

    def _excess(self, reservation: Reservation) -> str | None:
        """The limit that a further call might exceed, as a line for the user."""
        reserved_cost = sum(call.cost for call in self._under_way)
        reserved_tokens = sum(call.tokens for call in self._under_way)
        for option, used, reserved, need, limit in (
            ("--max-cost", self.cost, reserved_cost, reservation.cost, self.max_cost),
            ("--max-tokens", self.tokens, reserved_tokens, reservation.tokens, self.max_tokens),
        ):
            # money is a sum of fractions: equal up to rounding is not more
            if limit is not None and used + reserved + need > limit * (1 + 1e-9):
                return (
                    f"{option} {limit:g} is reached (used {used:.4g}, and the next call may take "
                    f"{need:.4g}); {RESUME}"
                )
        return None


@dataclass(frozen=True)
class Meter:
    """Charges the calls of one endpoint to a budget."""

    budget: Budget
    prices: Prices

    async def reserve(self, estimate: Usage) -> Reservation:
        return await self.budget.reserve(estimate, self.prices)

    def settle(self, reservation: Reservation, usage: Usage | None) -> None:
        self.budget.settle(reservation, usage, self.prices)
        charges = CHARGES.get()
        if charges is not None and usage is not None:
            charges.append(usage)

    def count_refused(self) -> None:
        self.budget.refused += 1


class MeteredLM:
    """An endpoint whose calls are charged to a budget, where they leave."""

    def __init__(self, lm: HttpLM, budget: Budget, prices: Prices) -> None:
        self.lm = lm
        lm.meter = Meter(budget, prices)
        self.budget = budget
        self.prices = prices
        self.fingerprint = lm.fingerprint
        self.max_concurrency = lm.max_concurrency
        self.allow = lm.allow
        self.prefill = lm.prefill
        self.top_logprobs = lm.top_logprobs

    async def sample(
        self,
        chat: Chat,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> Sample:
        return await self.lm.sample(
            chat, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop
        )

    async def choice_logprobs(
        self, chat: Chat, choices: Sequence[str], *, prefill: str = ""
    ) -> list[float] | None:
        return await self.lm.choice_logprobs(chat, choices, prefill=prefill)

    def trust(self, *, has_logprobs: bool) -> None:
        self.lm.trust(has_logprobs=has_logprobs)

    async def aclose(self) -> None:
        await self.lm.aclose()
