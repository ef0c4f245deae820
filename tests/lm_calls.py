"""Single calls of an LM from tests: an event loop each, and the connections closed afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cai.lm import LM, Sample
from cai.records import Chat, chat_of

HELLO = chat_of(("user", "Hello."))


def user_chat(text: str) -> Chat:
    return chat_of(("user", text))


def run_calls(lm: Any, calls: Callable[[Any], Awaitable[Any]]) -> Any:
    """The result of `calls(lm)`."""

    async def run() -> Any:
        try:
            return await calls(lm)
        finally:
            await lm.aclose()

    return asyncio.run(run())


def sample_hello(lm: Any) -> Any:
    return run_calls(lm, lambda lm: lm.sample(HELLO, max_tokens=16, temperature=1.0, seed=3))


def choose_a_or_b(lm: Any) -> Any:
    return run_calls(lm, lambda lm: lm.choice_logprobs(HELLO, ("A", "B"), prefill="It is ("))


def sample_all(lm: LM, chats: Sequence[Chat], **changes: Any) -> list[Sample]:
    """A reply to each chat, all requested at once, with the chat's index as its seed."""
    settings: dict[str, Any] = {"max_tokens": 10, "temperature": 1.0} | changes

    async def run() -> list[Sample]:
        calls = [lm.sample(chat, seed=i, **settings) for i, chat in enumerate(chats)]
        return await asyncio.gather(*calls)

    return asyncio.run(run())
