"""Rate limiting of calls to an endpoint: a token bucket, and the waits that a server asks for."""

from __future__ import annotations

import asyncio
import math
import time
from email.utils import parsedate_to_datetime

from tenacity import RetryCallState, wait_random_exponential

_BACK_OFF = wait_random_exponential(multiplier=0.5, max=30)
MAX_RETRY_AFTER = 600.0
"""Seconds; a longer Retry-After is cut to this."""


class RateLimiter:
    """A token bucket of `per_minute` units a minute that holds a tenth of them; None: no limit.

    Callers pass in the order in which they came.
    """

    def __init__(self, per_minute: float | None) -> None:
        self.per_second = None if per_minute is None else per_minute / 60
        self.capacity = 0.0 if per_minute is None else max(1.0, per_minute / 10)
        self.level = self.capacity
        self.refilled_at = time.monotonic()

    async def acquire(self, amount: float) -> None:
        """Charge `amount` now, and wait until the bucket would have refilled that much."""
        if self.per_second is None:
            return
        self._refill()
        self.level -= amount
        if self.level < 0:
            await asyncio.sleep(-self.level / self.per_second)

    def adjust(self, difference: float) -> None:
        """Charge (or return, when negative) the actual amount's difference to the estimate."""
        if self.per_second is not None:
            self.level = min(self.capacity, self.level - difference)

    def _refill(self) -> None:
        now = time.monotonic()
        refill = (now - self.refilled_at) * (self.per_second or 0.0)
        self.level = min(self.capacity, self.level + refill)
        self.refilled_at = now


def retry_after(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, a number or a date; None without a valid one."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return None if math.isnan(seconds) else min(max(0.0, seconds), MAX_RETRY_AFTER)


def retry_wait(state: RetryCallState) -> float:
    """The server's Retry-After plus jitter, else a random wait that doubles with each attempt."""
    error = state.outcome.exception() if state.outcome else None
    requested = getattr(error, "wait", None)
    if requested is None:
        return _BACK_OFF(state)
    return float(requested) + 0.1 * _BACK_OFF(state)
