"""An endpoint without a network: its answers are bytes that a function of the request returns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import httpx2 as httpx

from cai.lm.http import HttpConfig, HttpLM

SPEC = "http://127.0.0.1:1/v1#toy"


class Canned(NamedTuple):
    """A response."""

    body: bytes
    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    chunk_seconds: float = 0.0
    """Between any two bytes, if they come one by one."""


Respond = Callable[[dict[str, Any], httpx.Request], Canned]


class _Stream(httpx.AsyncByteStream):
    def __init__(self, canned: Canned) -> None:
        self.canned = canned

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not self.canned.chunk_seconds:
            yield self.canned.body
            return
        for byte in self.canned.body:
            await asyncio.sleep(self.canned.chunk_seconds)
            yield bytes([byte])


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, respond: Respond) -> None:
        self.respond = respond

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        canned = self.respond(json.loads(request.content), request)
        return httpx.Response(
            canned.status, headers=list(canned.headers), stream=_Stream(canned), request=request
        )


class CannedLM(HttpLM):
    """An endpoint that `respond` answers; `requests` counts what reached it."""

    def __init__(
        self, respond: Respond, config: HttpConfig | None = None, *, spec: str = SPEC
    ) -> None:
        super().__init__(spec, config)
        self.requests = 0

        def count(body: dict[str, Any], request: httpx.Request) -> Canned:
            self.requests += 1
            return respond(body, request)

        self.respond = count

    def _open(self) -> asyncio.LifoQueue[Any]:
        if self._idle is None:
            queue = super()._open()
            for _ in range(self.config.connections):
                queue.get_nowait()
            for _ in range(self.config.connections):
                queue.put_nowait(_Transport(self.respond))  # type: ignore[arg-type]
        assert self._idle is not None
        return self._idle


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
