"""CachedLM: one call for equal requests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from lm_calls import HELLO, run_calls, sample_hello

from cai.errors import StoreError, UnansweredError
from cai.lm import FakeLM
from cai.lm.caching import CachedLM
from cai.lm.request_log import RequestLog


def test_no_call_is_made_twice(tmp_path: Path) -> None:
    """Equal calls are made once, also when they are in flight together.

    Another seed, chat or model is another call.
    """
    fake = FakeLM(
        lambda chat, seed: f"{chat[-1].content} {seed}", lambda chat, choices: [-1.0, -2.0]
    )
    lm = CachedLM(fake, RequestLog(tmp_path / "log.sqlite"))

    async def calls(lm: Any) -> list[Any]:
        jobs = [lm.sample(HELLO, max_tokens=9, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
        return [
            *await asyncio.gather(*jobs),
            await lm.choice_logprobs(HELLO, ("A", "B")),
            await lm.choice_logprobs(HELLO, ("A", "B")),
        ]

    first = run_calls(lm, calls)
    assert [s.text for s in first[:3]] == ["Hello. 1", "Hello. 1", "Hello. 2"]
    assert first[3:] == [[-1.0, -2.0]] * 2
    assert len(fake.calls) == 3
    again = CachedLM(fake, RequestLog(tmp_path / "log.sqlite"))  # as another process would open it
    assert run_calls(again, calls) == first
    assert len(fake.calls) == 3
    other = FakeLM(fake.reply, fake.odds)
    other.fingerprint = "another"
    run_calls(CachedLM(other, again.log), calls)
    assert len(other.calls) == 3
    assert [(model, kind, count) for model, kind, count, *_ in again.log.stats()] == [
        ("another", "choice", 1),
        ("another", "sample", 2),
        (fake.fingerprint, "choice", 1),
        (fake.fingerprint, "sample", 2),
    ]
    assert again.log.prune(model="another") == 3
    assert len(list(again.log.rows())) == 3
    with pytest.raises(StoreError, match="no calls selected"):
        again.log.prune()


def test_failures_are_not_kept(tmp_path: Path) -> None:
    """A failed call is made again the next time."""
    fails = [True]

    def reply(chat: Any, seed: int) -> str:
        if fails[0]:
            raise UnansweredError("not now")
        return "now"

    lm = CachedLM(FakeLM(reply), RequestLog(tmp_path / "log.sqlite"))
    with pytest.raises(UnansweredError):
        sample_hello(lm)
    fails[0] = False
    assert sample_hello(lm).text == "now"
