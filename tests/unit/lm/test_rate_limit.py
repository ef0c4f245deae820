"""The token bucket, and the waits that a server asks for."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from endpoint import endpoint
from lm_calls import sample_hello

from cai.errors import BackendError
from cai.lm import http
from cai.lm.http import HttpConfig, HttpLM
from cai.lm.rate_limit import MAX_RETRY_AFTER, RateLimiter, retry_after


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
