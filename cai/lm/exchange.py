"""One request to an endpoint and its answer: connections, the key, and what a status means."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx

from cai.errors import BackendError, TransientError, UnansweredError, UsageError, blame
from cai.lm import credentials
from cai.lm.base import TOP_LOGPROBS
from cai.lm.body import read_body
from cai.lm.chat_completions import Answer, error_message, parse_answer
from cai.lm.credentials import API_KEY_VARIABLE
from cai.lm.http_config import HttpConfig
from cai.lm.rate_limit import requested_wait

TRANSIENT_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_ABOUT_TOP_LOGPROBS = re.compile(r"(?=.*logprobs).*\b\d{1,2}\b", re.IGNORECASE)
"""A server's message on how many alternatives it allows."""
MIN_LONG_SECRET = 8
"""Characters of a secret that is masked in replies too, not only in messages."""


class Exchange:
    """Requests to the chat completions of one server.

    Args:
        url: of the server, `http://host:port/v1`.
        model: its name at the server.
        key: sent with every request; None: none is.

    Raises:
        UsageError: the proxy in the environment is unusable.
    """

    def __init__(self, url: str, model: str, config: HttpConfig, key: str | None) -> None:
        self.url, self.model, self.key = url, model, key
        self.timeout, self.top_logprobs = config.timeout, config.top_logprobs
        with blame(UsageError, f"model {url!r}: not an address"):
            # parsed once: that takes a tenth of a call's CPU time
            self.address = httpx.URL(f"{url}/chat/completions")
        self.proxy = credentials.read_proxy(self.address.scheme, self.address.host)
        self.secrets = (*filter(None, (key,)), *(self.proxy.secrets if self.proxy else ()))
        self._extensions = {"timeout": httpx.Timeout(config.timeout).as_dict()}
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "cai",
        }
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def connections(self, count: int) -> list[httpx.AsyncHTTPTransport]:
        """Connections, each a transport of its own.

        A connection pool searches all its connections at every request. A client's cookies,
        redirects and authentication schemes, which endpoints do not use, would cost a fifth of a
        call's CPU time.
        """
        ssl_context = credentials.tls_context(self.address.scheme)
        proxy = self.proxy.proxy if self.proxy else None
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        return [
            httpx.AsyncHTTPTransport(limits=limits, verify=ssl_context, proxy=proxy)
            for _ in range(count)
        ]

    async def send(self, transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> bytes:
        """The body of an answer with status 200."""
        deadline = 2 * self.timeout
        try:
            async with asyncio.timeout(deadline):
                response = await transport.handle_async_request(request)
                try:
                    data = await read_body(response, self.url)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise TransientError(f"{self.url}: no whole answer within {deadline:g} s") from None
        except httpx.TransportError as error:
            # timeouts, refused and dropped connections, incomplete bodies
            failure = TransientError(f"{self.url}: {self.masked(_describe(error))}")
            if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
                raise UnpaidError(failure) from error
            raise failure from error
        if response.status_code != 200:
            raise UnpaidError(self._failure(response, data))
        return data

    def parse(self, data: bytes) -> Answer:
        """The answer of a body, with secrets masked in its texts.

        Not in the body: JSON has several spellings of a character.
        """
        # a short password may be part of a reply by chance
        long_secrets = [secret for secret in self.secrets if len(secret) >= MIN_LONG_SECRET]
        least = credentials.PART_OF_REPLY
        return parse_answer(
            data, self.url, lambda text: credentials.mask(text, long_secrets, least)
        )

    def _failure(self, response: httpx.Response, data: bytes) -> BackendError:
        """The error of a status other than 200."""
        status = response.status_code
        if status in (401, 403):
            problem = "the key in it was refused" if self.key else "it is not set"
            return BackendError(
                f"{self.url}: {status}: the server wants a key from the environment variable "
                f"{API_KEY_VARIABLE}: {problem}"
            )
        if status == 404:
            return BackendError(f"{self.url}: 404: no such address or model: {self.model}")
        if 300 <= status < 400:
            return BackendError(
                f"{self.url}: status {status}: the server redirects, and redirects are not "
                "followed with a key: write the final address"
            )
        if status in TRANSIENT_STATUSES:
            error = TransientError(f"{self.url}: status {status}")
            error.wait = requested_wait(response.headers)
            return error
        words = error_message(data, self.masked)
        if self.top_logprobs == TOP_LOGPROBS and _ABOUT_TOP_LOGPROBS.search(words):
            words += ": if it allows fewer alternatives, set http.top_logprobs to their number"
        return UnansweredError(f"{self.url}: status {status}: {words}")

    def masked(self, text: str) -> str:
        return credentials.mask(text, self.secrets)

    def request(self, body: dict[str, Any]) -> httpx.Request:
        # "replace": an unpaired surrogate cannot be encoded
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        return httpx.Request(
            "POST",
            self.address,
            headers=self._headers,
            content=content,
            extensions=self._extensions,
        )


class UnpaidError(Exception):
    """A request that no server has charged anything for."""

    def __init__(self, reason: BackendError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def parse_spec(spec: str) -> tuple[str, str]:
    """(URL, model name)."""
    credentials.refuse_user_info(spec)
    url, _, model = spec.partition("#")
    with blame(UsageError, f"model {spec!r}: not an address"):
        parts = urlsplit(url)
        _ = parts.port  # a number up to 65535
        spec.encode()  # an argument that is not UTF-8 cannot be sent, or logged
    if not model or not parts.hostname:
        raise UsageError(f"model {spec!r}: write it as http://HOST:PORT/v1#MODEL")
    return url.rstrip("/"), model


def _describe(error: Exception) -> str:
    """`ReadTimeout()` -> "read timeout: no answer in time"."""
    name = type(error).__name__
    words = "".join(f" {char.lower()}" if char.isupper() else char for char in name).strip()
    return f"{words}: {str(error) or 'no answer in time'}"
