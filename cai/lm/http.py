"""An LM behind an OpenAI-compatible chat endpoint (vLLM, SGLang, llama.cpp, a vendor): one request a call.

Only what may pass by itself is tried again: timeouts, dropped connections, 408, 409, 425, 429, 5xx, and answers that are not
whole. A call that stays without an answer fails alone (`UnansweredError`: its row becomes null with the reason); a refused key,
or many failures in a row, stop the run.
"""

from __future__ import annotations

import asyncio
import json
import math
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
from cai.lm.rate_limit import RateLimiter, retry_after, retry_wait
from cai.records import Chat, FrozenModel, message_dicts

KEY = "CAI_API_KEY"
TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
TOP = 20
"""Alternatives asked for where a choice is read: the most that the API allows."""
PIPELINE = 16
"""Calls gathered per connection before rows are written: connections never wait for a slow row."""


class HttpConfig(FrozenModel):
    """How an endpoint is spoken to."""

    connections: int = Field(32, ge=1)
    """Calls under way at once."""
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    """Prompt and completion; a call is charged an estimate first and what it really took afterwards."""
    timeout: float = Field(120.0, gt=0)
    """Seconds without a sign of life."""
    attempts: int = Field(6, ge=1)
    """Tries of one call, the first included."""
    allow: tuple[Literal["length", "content_filter"], ...] = ()
    """Replies that were cut at the token limit, or by a filter, and are wanted all the same. Otherwise they are failures."""
    prefill: bool = True
    """Whether the server goes on with a last message of the assistant's (vLLM, SGLang, llama.cpp). False: the judge has to answer
    with the bare option."""


class HttpLM:
    """`http://host:port/v1#model`, with the key from the environment (`CAI_API_KEY`) if the server wants one.

    Raises:
        UsageError: the spec names no model.
    """

    def __init__(self, spec: str, config: HttpConfig | None = None) -> None:
        self.url, _, self.model = spec.partition("#")
        with blame(UsageError, f"model {spec!r}: not an address"):
            parts = urlsplit(self.url)
        if not self.model or not parts.hostname:
            raise UsageError(f"model {spec!r}: write it as http://HOST:PORT/v1#MODEL")
        if parts.username or parts.query:
            raise UsageError(f"model: keys don't belong into the address; put yours into the environment as {KEY}")
        self.url = self.url.rstrip("/")
        with blame(UsageError, f"model {spec!r}: not an address"):
            self._address = httpx.URL(f"{self.url}/chat/completions")  # read once: that takes a tenth of a call's work
        self.config = config or HttpConfig()
        self.fingerprint = f"{self.url}#{self.model}"
        self.max_concurrency = self.config.connections * PIPELINE
        self._requests, self._tokens = RateLimiter(self.config.requests_per_minute), RateLimiter(self.config.tokens_per_minute)
        self._wires: list[httpx.AsyncHTTPTransport] = []
        self._free: asyncio.LifoQueue[httpx.AsyncHTTPTransport] | None = None
        self._headers: dict[str, str] = {}
        self._patience = {"timeout": httpx.Timeout(self.config.timeout).as_dict()}
        self._answered, self._failed_in_a_row = 0, 0

    async def sample(self, chat: Chat, *, max_tokens: int, temperature: float, seed: int, stop: Sequence[str] = ()) -> Sample:
        body = {"messages": messages(chat), "max_tokens": max_tokens, "temperature": temperature, "seed": seed & 0x7FFFFFFF}
        answer = await self._ask(body | ({"stop": list(stop)} if stop else {}))
        return self._sample(answer, chat)

    async def choice_logprobs(self, chat: Chat, choices: Sequence[str], *, prefill: str = "") -> list[float] | None:
        body: dict[str, Any] = {
            "messages": messages(chat),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": TOP,
        }
        if prefill and self.config.prefill:
            body["messages"].append({"role": "assistant", "content": prefill})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return option_logprobs(await self._ask(body), choices)

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones, also in another event loop."""
        wires, self._wires, self._free = self._wires, [], None
        for wire in wires:
            await wire.aclose()

    # ---- one call ----

    async def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer's JSON, after as many tries as it takes."""
        free = self._open()
        wire = await free.get()
        try:
            answer = await self._tried(wire, body | {"model": self.model})
        except (TransientError, UnansweredError) as error:
            self._failed_in_a_row += 1
            self._give_up_if_hopeless(error)
            raise UnansweredError(str(error)) from error
        finally:
            free.put_nowait(wire)
        self._answered += 1
        self._failed_in_a_row = 0
        return answer

    async def _tried(self, wire: httpx.AsyncHTTPTransport, body: dict[str, Any]) -> dict[str, Any]:
        """As often as the settings say. Hardly any call needs a second try: only then is the policy set up, which takes time."""
        failed: list[TransientError] = []

        async def once() -> dict[str, Any]:
            if failed:  # the first try was made outside
                raise failed.pop()
            return await self._once(wire, body)

        try:
            return await once()
        except TransientError as error:
            failed.append(error)
        policy = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(self.config.attempts),
            wait=retry_wait,
            reraise=True,
        )
        return await policy(once)

    def _give_up_if_hopeless(self, error: BackendError) -> None:
        if isinstance(error, TransientError) and not self._answered:
            raise BackendError(f"{error}; is the server running?") from error
        if self._failed_in_a_row >= max(16, 2 * self.config.connections):
            raise BackendError(f"{self._failed_in_a_row} calls in a row without an answer; the last one: {error}") from error

    async def _once(self, wire: httpx.AsyncHTTPTransport, body: dict[str, Any]) -> dict[str, Any]:
        estimate = estimated_tokens(body)
        await self._requests.acquire(1)
        await self._tokens.acquire(estimate)
        try:
            response = await wire.handle_async_request(self._request(body))
            await response.aread()
        except httpx.TransportError as error:  # timeouts, refused and dropped connections, half an answer
            raise TransientError(f"{self.url}: {_kind(error)}") from error
        self._check_status(response)
        answer = self._whole(response)
        used = answer.get("usage") or {}
        if isinstance(total := used.get("total_tokens"), int):
            self._tokens.adjust(total - estimate)
        return answer

    def _check_status(self, response: httpx.Response) -> None:
        code = response.status_code
        if code in (401, 403):
            have = "the key in it was refused" if os.environ.get(KEY) else "it is not set"
            raise BackendError(f"{self.url}: {code}: the server wants a key from the environment variable {KEY}: {have}")
        if code == 404:
            raise BackendError(f"{self.url}: 404: no such address or model: {self.model}")
        if code in TRANSIENT:
            error = TransientError(f"{self.url}: status {code}")
            error.wait = retry_after(response.headers.get("retry-after"))
            raise error
        if code != 200:
            raise UnansweredError(f"{self.url}: status {code}: {_said(response)}")

    def _whole(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            raise TransientError(f"{self.url}: the answer is not JSON") from None
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise TransientError(f"{self.url}: the answer holds no choice")
        if not isinstance(choices[0].get("message"), dict):
            raise TransientError(f"{self.url}: the answer holds no message")
        whole: dict[str, Any] = answer
        return whole

    def _request(self, body: dict[str, Any]) -> httpx.Request:
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")  # half a surrogate pair is no text to a server
        return httpx.Request("POST", self._address, headers=self._headers, content=content, extensions=self._patience)

    def _open(self) -> asyncio.LifoQueue[httpx.AsyncHTTPTransport]:
        """The connections that are free, each a transport of its own: a pool looks through all of its own at every request.

        A client's cookies, redirects and kinds of authentication, which no endpoint has, would cost a fifth of a call's work.
        """
        if self._free is None:
            key = os.environ.get(KEY)
            self._headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "cai"}
            self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
            self._free, trusted = asyncio.LifoQueue(), httpx.create_ssl_context()
            host, scheme = self._address.host, self._address.scheme
            proxy = None if proxy_bypass(host) else getproxies().get(scheme)
            for _ in range(self.config.connections):
                limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
                wire = httpx.AsyncHTTPTransport(limits=limits, verify=trusted, proxy=proxy)
                self._wires.append(wire)
                self._free.put_nowait(wire)
        return self._free

    def _sample(self, answer: dict[str, Any], chat: Chat) -> Sample:
        choice = answer["choices"][0]
        why, text = choice.get("finish_reason"), choice["message"].get("content")
        if why in ("length", "content_filter") and why not in self.config.allow:
            raise UnansweredError(f"{self.url}: the reply ended by {why}, which http.allow does not list")
        if not isinstance(text, str):
            raise UnansweredError(f"{self.url}: the reply has no text (finish_reason {why})")
        used = answer.get("usage") or {}
        return Sample(
            text=text,
            finished=why not in ("length", "content_filter"),
            prompt_tokens=int(used.get("prompt_tokens") or estimated_tokens({"messages": messages(chat)})),
            completion_tokens=int(used.get("completion_tokens") or math.ceil(len(text) / 4)),
        )


def messages(chat: Chat) -> list[dict[str, str]]:
    """The chat as the API wants it."""
    return message_dicts(chat)


def estimated_tokens(body: dict[str, Any]) -> int:
    """Four characters a token, and the reply at its longest: what a call is charged before its bill is known."""
    return sum(len(m["content"]) // 4 + 4 for m in body["messages"]) + int(body.get("max_tokens", 0))


def option_logprobs(answer: dict[str, Any], choices: Sequence[str]) -> list[float] | None:
    """log P of each option among the first token's alternatives, spellings with spaces or brackets summed.

    An option that is not among them gets the log P of the least likely one that is: it cannot have more, so a label may come out
    less sure than the server was, never surer. None when no option is there. An answer without log-probabilities raises: the
    server doesn't give any.
    """
    try:
        first = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found = [(str(entry["token"]).strip(" \t\n\"'()*"), float(entry["logprob"])) for entry in first]
    except (KeyError, TypeError, IndexError, ValueError):
        raise UnansweredError("the answer has no log-probabilities: the server must support logprobs and top_logprobs") from None
    scores = [_sum([logp for token, logp in found if token == choice]) for choice in choices]
    if not any(map(math.isfinite, scores)):
        return None
    least = min(logp for _, logp in found)
    return [score if math.isfinite(score) else least for score in scores]


def _sum(logps: Sequence[float]) -> float:
    top = max(logps, default=-math.inf)
    return top + math.log(sum(math.exp(x - top) for x in logps)) if math.isfinite(top) else -math.inf


def _kind(error: Exception) -> str:
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in type(error).__name__).strip()
    return f"{words}: {str(error) or 'no answer in time'}"


def _said(response: httpx.Response) -> str:
    """The server's own words about an error, one line of them."""
    with_text = response.text[:2000]
    try:
        said = json.loads(with_text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = with_text
    line = " ".join(str(said).split())[:200]
    key = os.environ.get(KEY)
    return line.replace(key, "***") if key else line
