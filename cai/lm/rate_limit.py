"""Rate limiting of calls to an endpoint: a token bucket, and the waits that a server asks for."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tenacity import RetryCallState

FIRST_BACK_OFF = 0.5
MAX_BACK_OFF = 30.0
"""Seconds: the longest of the random waits. Each is between half and all of its bound."""
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
        except (TypeError, ValueError, OverflowError):
            return None
    return _bounded(seconds)


def requested_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the headers of an answer; None without a valid one.

    Retry-After counts first. Without it, the reset of a limit that is used up counts, and the
    soonest reset if no header says which one is.
    """
    milliseconds = _duration(headers.get("retry-after-ms", "") + "ms")
    if milliseconds is not None:
        return milliseconds
    seconds = retry_after(headers.get("retry-after"))
    if seconds is not None:
        return seconds
    resets: list[float] = []
    exhausted: list[float] = []
    for name, value in headers.items():
        name = name.lower()
        wait = _reset(value) if "ratelimit" in name and "reset" in name else None
        if wait is None:
            continue
        resets.append(wait)
        if headers.get(name.replace("reset", "remaining"), "").strip() in ("0", "0.0"):
            exhausted.append(wait)
    if exhausted:
        return max(exhausted)
    return min(resets, default=None)


_PART = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_EPOCH = 1e9
"""A larger number of seconds is a moment since 1970, not a wait; beyond 1e12 of milliseconds."""


def _reset(value: str) -> float | None:
    """Seconds until a limit is reset: `6m0s`, `30`, seconds since 1970, or a date."""
    value = value.strip()
    seconds = _duration(value)
    if seconds is not None:
        return seconds
    try:
        moment = float(value)
    except ValueError:
        try:
            date = datetime.fromisoformat(value)
        except ValueError:
            return retry_after(value)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return _bounded(date.timestamp() - time.time())
    if moment > 1000 * _EPOCH:
        moment /= 1000
    return _bounded(moment - time.time() if moment > _EPOCH else moment)


def _duration(text: str) -> float | None:
    """Seconds of a duration like `1m30.5s` or `120ms`."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return _bounded(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def _bounded(seconds: float) -> float | None:
    return None if math.isnan(seconds) else min(max(0.0, seconds), MAX_RETRY_AFTER)


def retry_wait(state: RetryCallState) -> float:
    """A random wait that doubles with each attempt, and no less than what the server asks for.

    A server that asks for a second again and again would else use up all attempts at once.
    """
    error = state.outcome.exception() if state.outcome else None
    requested = getattr(error, "wait", None)
    back_off = min(MAX_BACK_OFF, FIRST_BACK_OFF * 2.0 ** min(state.attempt_number - 1, 30))
    wait = back_off * random.uniform(0.5, 1.0)
    return wait if requested is None else max(float(requested) * random.uniform(1.0, 1.1), wait)
