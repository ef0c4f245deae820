"""Keeping to an endpoint's limits: so much a minute, and waits as long as the server says."""

from __future__ import annotations

import asyncio
import time
from email.utils import parsedate_to_datetime

from tenacity import RetryCallState, wait_random_exponential

_BACK_OFF = wait_random_exponential(multiplier=0.5, max=30)
LONGEST = 600.0
"""Seconds that a server's Retry-After is believed."""


class RateLimiter:
    """At most `per_minute` units a minute, a tenth of them at once; callers pass in the order they came. None: no limit."""

    def __init__(self, per_minute: float | None) -> None:
        self.rate = None if per_minute is None else per_minute / 60
        self.most = 0.0 if per_minute is None else max(1.0, per_minute / 10)
        self.level, self.seen = self.most, time.monotonic()

    async def acquire(self, amount: float) -> None:
        """Charge `amount` now, and wait until it would have been earned."""
        if self.rate is None:
            return
        self._refill()
        self.level -= amount
        if self.level < 0:
            await asyncio.sleep(-self.level / self.rate)

    def adjust(self, more: float) -> None:
        """Charge (or, when negative, give back) the difference to what had been estimated."""
        if self.rate is not None:
            self.level = min(self.most, self.level - more)

    def _refill(self) -> None:
        now = time.monotonic()
        self.level = min(self.most, self.level + (now - self.seen) * (self.rate or 0.0))
        self.seen = now


def retry_after(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header: a number, or a date. None: no header, or nothing one could read."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return min(max(0.0, seconds), LONGEST) if seconds == seconds else None


def retry_wait(state: RetryCallState) -> float:
    """What the server asked for, or a random wait that doubles with every try."""
    error = state.outcome.exception() if state.outcome else None
    told = getattr(error, "wait", None)
    return _BACK_OFF(state) if told is None else told + 0.1 * _BACK_OFF(state)
