"""An endpoint without a network: its answers are bytes that a function of the request returns."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from multidict import CIMultiDict

from cai.lm.http import HttpConfig, HttpLM

SPEC = "http://127.0.0.1:1/v1#toy"


class Canned(NamedTuple):
    """A response."""

    body: bytes
    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    chunk_seconds: float = 0.0
    """Between any two bytes, if they come one by one."""


class Request(NamedTuple):
    """What would leave."""

    content: bytes
    headers: Mapping[str, str]


Respond = Callable[[dict[str, Any], Request], Canned]


class _Response:
    """What is used of an `aiohttp.ClientResponse`."""

    def __init__(self, canned: Canned) -> None:
        self.canned, self.status = canned, canned.status
        self.headers = CIMultiDict(canned.headers)
        self.content = self

    async def iter_any(self) -> AsyncIterator[bytes]:
        if not self.canned.chunk_seconds:
            yield self.canned.body
            return
        for byte in self.canned.body:
            await asyncio.sleep(self.canned.chunk_seconds)
            yield bytes([byte])


class _Session:
    """What is used of an `aiohttp.ClientSession`."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond

    @contextlib.asynccontextmanager
    async def post(
        self, url: object, *, data: bytes, headers: Mapping[str, str], **options: object
    ) -> AsyncIterator[_Response]:
        await asyncio.sleep(0)
        yield _Response(self.respond(json.loads(data), Request(data, CIMultiDict(headers))))

    async def close(self) -> None:
        pass


class CannedLM(HttpLM):
    """An endpoint that `respond` answers; `requests` counts what reached it."""

    def __init__(
        self, respond: Respond, config: HttpConfig | None = None, *, spec: str = SPEC
    ) -> None:
        super().__init__(spec, config)
        self.requests = 0

        def count(body: dict[str, Any], request: Request) -> Canned:
            self.requests += 1
            return respond(body, request)

        session: Any = _Session(count)
        self._exchange.open_session = lambda connections: session  # type: ignore[method-assign]


def reply_answer(text: Any = "Well.", finish_reason: Any = "stop") -> dict[str, Any]:
    """A valid answer with a reply of 50 + 10 tokens."""
    return {
        "id": "x",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60},
    }


def choice_answer(*top: tuple[Any, Any]) -> dict[str, Any]:
    """A valid answer whose first token has these alternatives."""
    answer = reply_answer("A", "length")
    entries = [{"token": token, "logprob": logprob} for token, logprob in top]
    answer["choices"][0]["logprobs"] = {"content": [{"token": "A", "top_logprobs": entries}]}
    answer["usage"]["completion_tokens"] = 1
    return answer


def ok(answer: Any) -> Canned:
    return Canned(json.dumps(answer).encode())


def always(canned: Canned | dict[str, Any]) -> Respond:
    """The same response to every request."""
    response = canned if isinstance(canned, Canned) else ok(canned)
    return lambda body, request: response
