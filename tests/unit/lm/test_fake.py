"""FakeLM: an LM of plain functions."""

from __future__ import annotations

import asyncio

from lm_calls import user_chat

from cai.lm import FakeLM, Sample, open_lm


def test_fake_lm() -> None:
    """`echo` returns the last message, cut at a limit in words; `calls` lists the chats."""
    fake = open_lm("fake:echo")
    assert isinstance(fake, FakeLM)
    sample = asyncio.run(
        fake.sample(user_chat("one two three"), max_tokens=2, temperature=1, seed=0)
    )
    assert sample == Sample(text="one two", finished=False, prompt_tokens=3, completion_tokens=2)
    uncut = asyncio.run(fake.sample(user_chat("one two"), max_tokens=2, temperature=1, seed=0))
    assert uncut.finished
    assert fake.calls == [user_chat("one two three"), user_chat("one two")]
    assert asyncio.run(fake.choice_logprobs(user_chat("x"), ["A", "B", "C"])) == [0.0, 0.0, 0.0]
    judge = FakeLM(lambda chat, seed: str(seed), lambda chat, choices: None)
    assert asyncio.run(judge.choice_logprobs(user_chat("x"), ["A", "B"])) is None
    reply = asyncio.run(judge.sample(user_chat("x"), max_tokens=2, temperature=1, seed=9))
    assert reply.text == "9"
    assert fake.fingerprint != open_lm("fake:polite").fingerprint


def test_fake_lm_stops() -> None:
    sample = asyncio.run(
        open_lm("fake:echo").sample(
            user_chat("a b STOP c END"), max_tokens=9, temperature=1, seed=0, stop=("END", "STOP")
        )
    )
    assert (sample.text, sample.finished) == ("a b", True)


def test_the_chats_of_many_calls_do_not_fill_the_memory() -> None:
    fake = FakeLM(lambda chat, seed: "x")

    async def call() -> None:
        for i in range(5000):
            await fake.choice_logprobs(user_chat(str(i)), ["A", "B"])

    asyncio.run(call())
    assert fake.num_calls == 5000
    assert 1000 <= len(fake.calls) <= 2000
    assert fake.calls[-1000:] == [user_chat(str(i)) for i in range(4000, 5000)]
