"""One request to an endpoint and its answer: connections, the key, and what a status means."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import aiohttp

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
_WITHOUT_CONNECTION = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
)
KEEP_ALIVE = 4.0
"""Seconds that a connection is kept without a call: servers close theirs after 5 s or more."""
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
            self.address = credentials.parse_address(f"{url}/chat/completions")
        self.proxy = credentials.read_proxy(self.address.scheme, self.address.host or "")
        self.secrets = (*filter(None, (key,)), *(self.proxy.secrets if self.proxy else ()))
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "cai",
        }
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._tunnel_headers: dict[str, str] | None = None
        if self.proxy is not None and self.proxy.authorization:
            # https goes through a tunnel, of which the server sees nothing
            self._tunnel_headers = {"Proxy-Authorization": self.proxy.authorization}
            if self.address.scheme == "http":
                self._headers |= self._tunnel_headers

    def open_session(self, connections: int) -> aiohttp.ClientSession:
        """Connections to the server, which belong to the running event loop.

        They keep nothing of an answer. Cookies, netrc files and proxies of the environment that
        `credentials` has not checked have no part in them.
        """
        schemes = (self.address.scheme, self.proxy.address.scheme if self.proxy else "")
        connector = aiohttp.TCPConnector(
            limit=connections,
            keepalive_timeout=KEEP_ALIVE,
            ssl=credentials.tls_context() if "https" in schemes else True,
        )
        return aiohttp.ClientSession(
            connector=connector,
            skip_auto_headers=("Accept-Encoding",),
            timeout=aiohttp.ClientTimeout(
                total=2 * self.timeout, connect=self.timeout, sock_read=self.timeout
            ),
            proxy=self.proxy.address if self.proxy else None,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def send(self, session: aiohttp.ClientSession, content: bytes) -> bytes:
        """The body of an answer with status 200."""
        try:
            async with session.post(
                self.address,
                data=content,
                # not the session's: those go to a proxy as well, and the key is among these
                headers=self._headers,
                allow_redirects=False,
                proxy_headers=self._tunnel_headers,
            ) as response:
                data = await read_body(response, self.url)
        except aiohttp.ClientError as error:
            words = " ".join(self.masked(_describe(error)).split())
            failure = TransientError(f"{self.url}: {words}")
            if isinstance(error, _WITHOUT_CONNECTION):
                raise UnpaidError(failure) from error
            raise failure from error
        except TimeoutError:
            raise TransientError(
                f"{self.url}: no whole answer within {2 * self.timeout:g} s"
            ) from None
        if response.status != 200:
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

    def _failure(self, response: aiohttp.ClientResponse, data: bytes) -> BackendError:
        """The error of a status other than 200."""
        status = response.status
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


def encode(body: dict[str, Any]) -> bytes:
    # "replace": an unpaired surrogate cannot be encoded
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def _describe(error: aiohttp.ClientError) -> str:
    """One line on what went wrong between here and the server, without the server's bytes."""
    reason = getattr(error, "strerror", None) or getattr(error, "os_error", error)
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "connect timeout: no connection in time"
        case aiohttp.SocketTimeoutError():
            return "read timeout: no answer in time"
        case aiohttp.ServerDisconnectedError():
            return "read error: the server closed the connection"
        case aiohttp.ClientPayloadError():
            return "read error: the answer breaks off"
        case aiohttp.ClientHttpProxyError():
            return f"proxy error: status {error.status}"
        case aiohttp.ClientResponseError():
            return "read error: the answer is not HTTP"
        case aiohttp.ClientProxyConnectionError():
            return f"proxy error: {reason}"
        case aiohttp.ClientConnectorError():
            return f"connect error: {reason}"
    return f"connection error: {reason}"
