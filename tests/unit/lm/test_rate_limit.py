"""The token bucket, and the waits that a server asks for."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from endpoint import endpoint
from lm_calls import sample_hello
from tenacity import RetryCallState

from cai.errors import BackendError, TransientError
from cai.lm import http
from cai.lm.http import HttpConfig, HttpLM
from cai.lm.rate_limit import (
    MAX_RETRY_AFTER,
    RateLimiter,
    requested_wait,
    retry_after,
    retry_wait,
)


def test_limiter_lets_so_much_through_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 a minute: 10 a second, 60 at once. Of 80 units at one moment the last wait 2 s; returning
    30 refills the bucket.
    """
    now, slept = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def go() -> None:
        limiter = RateLimiter(600)
        for _ in range(8):
            await limiter.acquire(10)
        limiter.adjust(-30)  # level -20 -> 10
        await limiter.acquire(10)
        now[0] = 100.0  # full again: 60, not 1000
        await limiter.acquire(70)
        await RateLimiter(None).acquire(1e9)

    asyncio.run(go())
    assert slept == [pytest.approx(1.0), pytest.approx(2.0), pytest.approx(1.0)]


def test_retry_after() -> None:
    assert retry_after("2.5") == 2.5
    assert retry_after("-3") == 0.0
    assert retry_after("1e9") == MAX_RETRY_AFTER
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert [retry_after(text) for text in (None, "soon", "nan")] == [None, None, None]


def test_the_server_is_waited_for_as_it_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 with Retry-After 0.01: the retry policy gets that number after each of 2 attempts; after
    a 500 without the header it gets none.
    """
    waits = []

    def wait(state: Any) -> float:
        waits.append(state.outcome.exception().wait)
        return 0.0

    monkeypatch.setattr(http, "retry_wait", wait)
    for fault in ("429", "500"):
        with endpoint(tmp_path / fault, always=fault) as server, pytest.raises(BackendError):
            sample_hello(HttpLM(server.spec, HttpConfig(attempts=2)))
    assert waits == [0.01, 0.01, None, None]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7", "x-ratelimit-reset-requests": "1m"}, 7.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"x-ratelimit-reset-requests": "30s", "x-ratelimit-remaining-requests": "0"}, 30.0),
        ({"x-ratelimit-reset-requests": "1m30.5s", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        (
            {
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "120ms",
                "x-ratelimit-remaining-tokens": "900",
            },
            360.0,
        ),
        ({"ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-reset": str(int(time.time()) - 5)}, 0.0),
        ({"x-ratelimit-reset": str(1000 * (int(time.time()) + 9999))}, MAX_RETRY_AFTER),
        ({"anthropic-ratelimit-tokens-reset": "2001-01-01T00:00:00Z"}, 0.0),
        ({"x-ratelimit-reset": "soon"}, None),
        ({"x-ratelimit-reset": "nan"}, None),
        ({"x-ratelimit-reset": "9" * 400}, MAX_RETRY_AFTER),
    ],
)
def test_when_limits_are_reset(headers: dict[str, str], seconds: float | None) -> None:
    assert requested_wait(headers) == seconds


def test_waits_outlast_a_minute_and_a_half() -> None:
    """11 waits between 12 attempts: half of 0.5 + 1 + 2 + 4 + 8 + 16 + 5 · 30 = 181.5 s at least.

    A server that asks for a second each time is not asked more often for that.
    """

    def total_wait(wait: float | None) -> float:
        error = TransientError("busy")
        error.wait = wait
        total = 0.0
        for attempt in range(1, HttpConfig().attempts):
            state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
            state.attempt_number = attempt
            state.set_exception((TransientError, error, None))
            total += retry_wait(state)
        return total

    for wait in (None, 1.0):
        assert 181.5 / 2 <= total_wait(wait) <= 190
    assert total_wait(60.0) >= 11 * 60
