"""An LM behind an OpenAI-compatible chat endpoint (vLLM, SGLang, llama.cpp, a vendor).

One call is one request. Only transient faults are retried: timeouts, dropped connections, status
408, 409, 425, 429 and 5xx, and malformed answers. A call that stays without an answer fails alone
(`UnansweredError`: its row becomes null with the reason). A rejected key, or many failures in a
row, stop the run.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2 as httpx
from pydantic import Field
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from cai.errors import BackendError, TransientError, UnansweredError, UsageError, blame
from cai.lm.base import Sample
from cai.lm.chat_completions import (
    error_message,
    estimate_tokens,
    option_logprobs,
    parse_answer,
    parse_sample,
)
from cai.lm.rate_limit import RateLimiter, retry_after, retry_wait
from cai.records import Chat, FrozenModel, message_dicts

API_KEY_VARIABLE = "CAI_API_KEY"
TRANSIENT_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
TOP_LOGPROBS = 20
"""Alternatives requested for a choice: the most that the API allows."""
CALLS_PER_CONNECTION = 16
"""Rows in flight for each connection, so that connections never wait for a slow row."""


class HttpConfig(FrozenModel):
    """Settings of an endpoint."""

    connections: int = Field(32, ge=1)
    """Requests in flight at once."""
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    """Prompt and completion tokens: estimated when a call starts, corrected by its real usage."""
    timeout: float = Field(120.0, gt=0)
    """Seconds without any data from the server."""
    attempts: int = Field(6, ge=1)
    """Attempts per call, the first included."""
    allow: tuple[Literal["length", "content_filter"], ...] = ()
    """Finish reasons of replies to accept: cut at the token limit, or by a filter.

    Other such replies are failures.
    """
    prefill: bool = True
    """Whether the server continues a last message of the assistant (vLLM, SGLang, llama.cpp).

    If not, the judge has to answer with the bare option.
    """


class HttpLM:
    """`http://host:port/v1#model`, with the key from the environment (`CAI_API_KEY`) if needed.

    Raises:
        UsageError: the spec names no model.
    """

    def __init__(self, spec: str, config: HttpConfig | None = None) -> None:
        self.url, self.model = _parse_spec(spec)
        with blame(UsageError, f"model {spec!r}: not an address"):
            # parsed once: that takes a tenth of a call's CPU time
            self._address = httpx.URL(f"{self.url}/chat/completions")
        self.config = config or HttpConfig()
        self.fingerprint = f"{self.url}#{self.model}"
        self.max_concurrency = self.config.connections * CALLS_PER_CONNECTION
        self._request_limiter = RateLimiter(self.config.requests_per_minute)
        self._token_limiter = RateLimiter(self.config.tokens_per_minute)
        self._transports: list[httpx.AsyncHTTPTransport] = []
        self._idle: asyncio.LifoQueue[httpx.AsyncHTTPTransport] | None = None
        self._headers: dict[str, str] = {}
        self._extensions = {"timeout": httpx.Timeout(self.config.timeout).as_dict()}
        self._successes = 0
        self._consecutive_failures = 0

    async def sample(
        self,
        chat: Chat,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> Sample:
        body: dict[str, Any] = {
            "messages": message_dicts(chat),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed & 0x7FFFFFFF,
        }
        if stop:
            body["stop"] = list(stop)
        answer = await self._call(body)
        return parse_sample(answer, chat, self.config.allow, self.url)

    async def choice_logprobs(
        self, chat: Chat, choices: Sequence[str], *, prefill: str = ""
    ) -> list[float] | None:
        body: dict[str, Any] = {
            "messages": message_dicts(chat),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": TOP_LOGPROBS,
        }
        if prefill and self.config.prefill:
            body["messages"].append({"role": "assistant", "content": prefill})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return option_logprobs(await self._call(body), choices)

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones, also in another event loop."""
        transports = self._transports
        self._transports = []
        self._idle = None
        for transport in transports:
            await transport.aclose()

    # ---- one call ----

    async def _call(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer's JSON, after as many attempts as the settings allow."""
        idle = self._open()
        transport = await idle.get()
        try:
            answer = await self._post_with_retries(transport, body | {"model": self.model})
        except (TransientError, UnansweredError) as error:
            self._consecutive_failures += 1
            self._stop_if_endpoint_is_down(error)
            raise UnansweredError(str(error)) from error
        finally:
            idle.put_nowait(transport)
        self._successes += 1
        self._consecutive_failures = 0
        return answer

    async def _post_with_retries(
        self, transport: httpx.AsyncHTTPTransport, body: dict[str, Any]
    ) -> dict[str, Any]:
        try:
            return await self._post(transport, body)
        except TransientError as error:
            errors = [error]
        # Few calls need a second attempt, and setting up the retry policy takes time: it starts
        # only here, with the first attempt's error.
        policy = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(self.config.attempts),
            wait=retry_wait,
            reraise=True,
        )

        async def attempt() -> dict[str, Any]:
            if errors:
                raise errors.pop()
            return await self._post(transport, body)

        return await policy(attempt)

    def _stop_if_endpoint_is_down(self, error: BackendError) -> None:
        if isinstance(error, TransientError) and not self._successes:
            raise BackendError(f"{error}; is the server running?") from error
        if self._consecutive_failures >= max(16, 2 * self.config.connections):
            raise BackendError(
                f"{self._consecutive_failures} calls in a row without an answer; "
                f"the last one: {error}"
            ) from error

    async def _post(
        self, transport: httpx.AsyncHTTPTransport, body: dict[str, Any]
    ) -> dict[str, Any]:
        estimate = estimate_tokens(body)
        await self._request_limiter.acquire(1)
        await self._token_limiter.acquire(estimate)
        try:
            response = await transport.handle_async_request(self._request(body))
            await response.aread()
        except httpx.TransportError as error:
            # timeouts, refused and dropped connections, incomplete bodies
            raise TransientError(f"{self.url}: {_describe(error)}") from error
        self._check_status(response)
        answer = parse_answer(response, self.url)
        usage = answer.get("usage") or {}
        total = usage.get("total_tokens")
        if isinstance(total, int):
            self._token_limiter.adjust(total - estimate)
        return answer

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in (401, 403):
            has_key = bool(os.environ.get(API_KEY_VARIABLE))
            problem = "the key in it was refused" if has_key else "it is not set"
            raise BackendError(
                f"{self.url}: {status}: the server wants a key from the environment variable "
                f"{API_KEY_VARIABLE}: {problem}"
            )
        if status == 404:
            raise BackendError(f"{self.url}: 404: no such address or model: {self.model}")
        if status in TRANSIENT_STATUSES:
            error = TransientError(f"{self.url}: status {status}")
            error.wait = retry_after(response.headers.get("retry-after"))
            raise error
        if status != 200:
            message = error_message(response, os.environ.get(API_KEY_VARIABLE))
            raise UnansweredError(f"{self.url}: status {status}: {message}")

    def _request(self, body: dict[str, Any]) -> httpx.Request:
        # "replace": an unpaired surrogate cannot be encoded
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        return httpx.Request(
            "POST",
            self._address,
            headers=self._headers,
            content=content,
            extensions=self._extensions,
        )

    def _open(self) -> asyncio.LifoQueue[httpx.AsyncHTTPTransport]:
        """The idle connections, each a transport of its own.

        A connection pool searches all its connections at every request. A client's cookies,
        redirects and authentication schemes, which endpoints do not use, would cost a fifth of a
        call's CPU time.
        """
        if self._idle is None:
            key = os.environ.get(API_KEY_VARIABLE)
            self._headers = {
                "Content-Type": "application/json",
                "Accept": "application/json",
                "User-Agent": "cai",
            }
            if key:
                self._headers["Authorization"] = f"Bearer {key}"
            self._idle = asyncio.LifoQueue()
            ssl_context = httpx.create_ssl_context()
            host, scheme = self._address.host, self._address.scheme
            proxy = None if proxy_bypass(host) else getproxies().get(scheme)
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
            for _ in range(self.config.connections):
                transport = httpx.AsyncHTTPTransport(limits=limits, verify=ssl_context, proxy=proxy)
                self._transports.append(transport)
                self._idle.put_nowait(transport)
        return self._idle


def _parse_spec(spec: str) -> tuple[str, str]:
    """(URL, model name)."""
    url, _, model = spec.partition("#")
    with blame(UsageError, f"model {spec!r}: not an address"):
        parts = urlsplit(url)
    if not model or not parts.hostname:
        raise UsageError(f"model {spec!r}: write it as http://HOST:PORT/v1#MODEL")
    if parts.username or parts.query:
        raise UsageError(
            "model: keys don't belong into the address; "
            f"put yours into the environment as {API_KEY_VARIABLE}"
        )
    return url.rstrip("/"), model


def _describe(error: Exception) -> str:
    """`ReadTimeout()` -> "read timeout: no answer in time"."""
    name = type(error).__name__
    words = "".join(f" {char.lower()}" if char.isupper() else char for char in name).strip()
    return f"{words}: {str(error) or 'no answer in time'}"
