"""An LM behind an OpenAI-compatible chat endpoint (vLLM, SGLang, llama.cpp, a vendor).

One call is one request. Only transient faults are retried: timeouts, dropped connections, status
408, 409, 425, 429 and 5xx, and malformed answers. A call that stays without an answer fails alone
(`UnansweredError`: its row becomes null with the reason). A rejected key, many failures in a row,
or a judge without log-probabilities stop the run.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx2 as httpx
from pydantic import Field
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from cai.errors import BackendError, TransientError, UnansweredError, UsageError, blame
from cai.lm import credentials
from cai.lm.base import ANSWER_USAGE, TOP_LOGPROBS, RefusedAnswerError, Sample, Usage
from cai.lm.body import MalformedAnswerError, read_body
from cai.lm.chat_completions import (
    Answer,
    error_message,
    estimate_tokens,
    parse_answer,
    parse_sample,
    thinking_fields,
    usage_of,
)
from cai.lm.credentials import API_KEY_VARIABLE
from cai.lm.option_logprobs import begins_with_thought, option_logprobs
from cai.lm.rate_limit import RateLimiter, requested_wait, retry_wait
from cai.modeling.model_spec import split_spec
from cai.records import Chat, FrozenModel, message_dicts

if TYPE_CHECKING:
    from cai.lm.batch import Batch
    from cai.lm.budget import Meter

T = TypeVar("T")
TRANSIENT_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_ABOUT_TOP_LOGPROBS = re.compile(r"(?=.*logprobs).*\b\d{1,2}\b", re.IGNORECASE)
"""A server's message on how many alternatives it allows."""
CALLS_PER_CONNECTION = 16
"""Rows in flight for each connection, so that connections never wait for a slow row."""
EARLY_ATTEMPTS = 6
"""Attempts at a server that has not answered yet, some 10 s: it may not be running."""
MALFORMED_ATTEMPTS = 3
"""Attempts that may end in an answer which is not in the format: each may have been paid for."""
PATIENCE = 300.0
"""Seconds after which a call is given up, if it was tried `EARLY_ATTEMPTS` times."""
FEW_WITHOUT_LOGPROBS = 3
MAX_WITHOUT_LOGPROBS = 8
"""Answers of a judge without log-probabilities, if none had any, that stop the run: the smaller
number if no other call may still show that the judge has some."""
MAX_MALFORMED = 8
"""Calls with malformed answers only that stop a run, if the endpoint has never answered."""
MIN_LONG_SECRET = 8
"""Characters of a secret that is masked in replies too, not only in messages."""
OPTION_TOKENS = 8
"""Of a judge's answer after its thought: white space or a bracket may come before the option."""
JUDGE_THINKING_TEMPERATURE = 0.6
"""Greedy thoughts repeat themselves."""
DRAIN_SECONDS = 60.0
"""Given to calls under way when a run stops: their answers are paid for, and are logged."""


class HttpConfig(FrozenModel):
    """Settings of an endpoint."""

    connections: int = Field(32, ge=1)
    """Requests in flight at once."""
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    """Prompt and completion tokens: estimated when a call starts, corrected by its real usage."""
    timeout: float = Field(120.0, gt=0)
    """Seconds without any data from the server; an answer takes twice as long at most."""
    attempts: int = Field(12, ge=1)
    """Attempts per call, the first included. The waits between 12 last 90 s to 3 minutes."""
    allow: tuple[Literal["length", "content_filter", "missing"], ...] = ()
    """Finish reasons of replies to accept: cut at the token limit, by a filter, or not named.

    Other such replies are failures.
    """
    prefill: bool = True
    """Whether the server continues a last message of the assistant (vLLM, SGLang, llama.cpp).

    If not, the judge has to answer with the bare option.
    """
    top_logprobs: int = Field(TOP_LOGPROBS, ge=2, le=TOP_LOGPROBS)
    """Alternatives to ask for at a judge's choice, where the server allows fewer than 20."""

    def answer_settings(self) -> dict[str, str]:
        """The settings that decide what a row holds.

        Defaults are left out: artefacts of earlier versions have no record of them.
        """
        defaults = HttpConfig()
        return {
            f"http.{name}": str(getattr(self, name))
            for name in ("prefill", "allow", "top_logprobs")
            if getattr(self, name) != getattr(defaults, name)
        }


class HttpLM:
    """`http://host:port/v1#model`, with the key from the environment (`CAI_API_KEY`) if needed.

    Raises:
        UsageError: the spec names no model, or the key or the proxy in the environment is unusable.
    """

    def __init__(self, spec: str, config: HttpConfig | None = None) -> None:
        spec, self.thinking = split_spec(spec)
        self.url, self.model = _parse_spec(spec)
        with blame(UsageError, f"model {spec!r}: not an address"):
            # parsed once: that takes a tenth of a call's CPU time
            self._address = httpx.URL(f"{self.url}/chat/completions")
        self.config = config or HttpConfig()
        self.meter: Meter | None = None
        """Charges the calls, if they are limited."""
        self.batch: Batch | None = None
        """Answers the calls in place of the server, if there is one."""
        self.allow = self.config.allow
        self.prefill = self.config.prefill and not self.thinking.is_on
        self.top_logprobs = self.config.top_logprobs
        self.fingerprint = f"{self.url}#{self.model}{self.thinking.text}"
        self.max_concurrency = self.config.connections * CALLS_PER_CONNECTION
        self._key = credentials.read_api_key()
        self._proxy = credentials.read_proxy(self._address.scheme, self._address.host)
        self._secrets = (*filter(None, (self._key,)), *(self._proxy.secrets if self._proxy else ()))
        self._request_limiter = RateLimiter(self.config.requests_per_minute)
        self._token_limiter = RateLimiter(self.config.tokens_per_minute)
        self._transports: list[httpx.AsyncHTTPTransport] = []
        self._idle: asyncio.LifoQueue[httpx.AsyncHTTPTransport] | None = None
        self._headers: dict[str, str] = {}
        self._extensions = {"timeout": httpx.Timeout(self.config.timeout).as_dict()}
        self._queued: set[asyncio.Task[Any]] = set()
        """Calls that are waiting for a connection, a limit or their next attempt."""
        self._under_way: set[asyncio.Task[Any]] = set()
        """Calls that the server is answering."""
        self._stopped: BackendError | None = None
        """The error that stopped the run: no further call leaves."""
        self._is_known = False
        """Whether the endpoint has answered an earlier run."""
        self._answers = 0
        self._successes = 0
        self._consecutive_failures = 0
        self._without_logprobs: int | None = 0
        """Answers without log-probabilities; None: one had some."""

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
            "max_tokens": max_tokens + self._thinking_tokens,
            "temperature": temperature,
            "seed": seed & 0x7FFFFFFF,
            **thinking_fields(self.thinking.mode),
        }
        if stop:
            body["stop"] = list(stop)
        return await self._call(
            body, chat, lambda answer: parse_sample(answer, chat, self.allow, self.url)
        )

    async def choice_logprobs(
        self, chat: Chat, choices: Sequence[str], *, prefill: str = ""
    ) -> list[float] | None:
        body: dict[str, Any] = {
            "messages": message_dicts(chat),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": self.top_logprobs,
            **thinking_fields(self.thinking.mode),
        }
        if self.thinking.is_on:
            body["max_tokens"] = self._thinking_tokens + OPTION_TOKENS
            body |= {"temperature": JUDGE_THINKING_TEMPERATURE, "seed": 0}
        if prefill and self.prefill:
            body["messages"].append({"role": "assistant", "content": prefill})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return await self._call(body, chat, lambda answer: self._choose(answer, choices, chat))

    @property
    def _thinking_tokens(self) -> int:
        """Added to a call's limit: servers count thoughts with the reply."""
        return self.thinking.tokens if self.thinking.is_on else 0

    def trust(self, *, has_logprobs: bool) -> None:
        """The endpoint has answered an earlier run: odd answers do not stop this one at once."""
        self._is_known = True
        if has_logprobs:
            self._without_logprobs = None

    async def aclose(self) -> None:
        """Wait for the calls under way, and close the connections.

        Queued calls are cancelled: they never leave. The next call opens new connections, also in
        another event loop.
        """
        for task in self._queued:
            task.cancel()
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._stopped = None
        transports = self._transports
        self._transports = []
        self._idle = None
        for transport in transports:
            await transport.aclose()

    # ---- one call ----

    async def _call(self, body: dict[str, Any], chat: Chat, parse: Callable[[Answer], T]) -> T:
        """The parsed answer, after as many attempts as the settings allow."""
        if self.batch is not None:
            return parse(self._batched(self.batch, body, chat))
        task = _current_task()
        self._queued.add(task)
        try:
            idle = self._open()
            transport = await idle.get()
            try:
                self._refuse_if_stopped()
                call = _Call(self._request(body | {"model": self.model}), body, chat)
                result = parse(await self._post_with_retries(transport, call))
            finally:
                idle.put_nowait(transport)
        except (TransientError, UnansweredError) as error:
            self._consecutive_failures += 1
            if isinstance(error, RefusedAnswerError) and self.meter is not None:
                self.meter.count_refused()
            self._stop_if_endpoint_is_down(error)
            if isinstance(error, RefusedAnswerError):
                raise
            raise UnansweredError(str(error)) from error
        except BackendError as error:
            self._stopped = self._stopped or error
            raise
        finally:
            self._queued.discard(task)
        self._successes += 1
        self._consecutive_failures = 0
        return result

    def _batched(self, batch: Batch, body: dict[str, Any], chat: Chat) -> Answer:
        """The answer that a batch has to the request; one that is malformed is requested again."""
        request = body | {"model": self.model}
        try:
            answer = self._parse(batch.answer(request))
        except TransientError as error:
            raise batch.reopened(request) from error
        ANSWER_USAGE.set(usage_of(answer, chat))
        return answer

    def _choose(self, answer: Answer, choices: Sequence[str], chat: Chat) -> list[float] | None:
        """The options' log-probabilities.

        Raises:
            BackendError: the judge never gives any.
            RefusedAnswerError: this answer has none.
        """
        problem = (
            "the answer has no log-probabilities: the server must support logprobs and top_logprobs"
        )
        if self.thinking.is_on and answer.alternatives is not None:
            problem = f"no option follows a thought of {self.thinking.tokens} thinking_tokens"
            answer = answer._replace(alternatives=answer.reply_alternatives)
        try:
            logprobs = option_logprobs(answer, choices)
        except ValueError:
            logprobs = None
        else:
            if logprobs is not None or not begins_with_thought(answer):
                self._without_logprobs = None
                return logprobs
            problem = (
                "the judge begins with <think> instead of an option: turn its thinking off "
                "(MODEL?thinking=off), or read the option after it (MODEL?thinking=on)"
            )
        usage = usage_of(answer, chat)
        if self._without_logprobs is not None:
            self._without_logprobs += 1
            limit = FEW_WITHOUT_LOGPROBS if self._is_last_call() else MAX_WITHOUT_LOGPROBS
            if self._without_logprobs >= limit and self._stopped is None:
                self._stopped = BackendError(
                    f"{self.url}: {self._without_logprobs} answers, and none to judge by: "
                    f"{problem}; or set `judge` (--model) to another model"
                )
        raise RefusedAnswerError(problem, usage, lasting=False)

    async def _post_with_retries(self, transport: httpx.AsyncHTTPTransport, call: _Call) -> Answer:
        try:
            return await self._post(transport, call)
        except TransientError as error:
            errors = [error]
        # Few calls need a second attempt, and setting up the retry policy takes time: it starts
        # only here, with the first attempt's error.
        malformed = 0

        def stop(state: RetryCallState) -> bool:
            nonlocal malformed
            error = state.outcome.exception() if state.outcome else None
            malformed += isinstance(error, MalformedAnswerError)
            tried = state.attempt_number
            if tried >= self.config.attempts or malformed >= MALFORMED_ATTEMPTS:
                return True
            is_early = not self._answers or (state.seconds_since_start or 0.0) > PATIENCE
            return tried >= EARLY_ATTEMPTS and is_early

        policy = AsyncRetrying(
            retry=retry_if_exception_type(TransientError), stop=stop, wait=retry_wait, reraise=True
        )

        async def attempt() -> Answer:
            if errors:
                raise errors.pop()
            self._refuse_if_stopped()
            return await self._post(transport, call)

        return await policy(attempt)

    def _is_last_call(self) -> bool:
        """Whether no call but the current one is queued or under way."""
        return len(self._queued | self._under_way) <= 1

    def _seems_down(self, error: TransientError) -> bool:
        """Whether a call that failed says that there is no such endpoint.

        One malformed answer does not, as long as other calls may be answered.
        """
        if self._successes or not isinstance(error, MalformedAnswerError):
            return not self._successes
        if self._is_known:
            return False
        return self._is_last_call() or self._consecutive_failures >= MAX_MALFORMED

    def _refuse_if_stopped(self) -> None:
        if self._stopped is not None:
            raise type(self._stopped)(str(self._stopped))

    def _stop_if_endpoint_is_down(self, error: BackendError) -> None:
        """Raise what stops the run, if the last failure was one too many."""
        is_odd = isinstance(error, (MalformedAnswerError, RefusedAnswerError))
        if self._stopped is None:
            if isinstance(error, TransientError) and self._seems_down(error):
                through = " (through the proxy of the environment)" if self._proxy else ""
                self._stopped = BackendError(f"{error}{through}; is the server running?")
            elif is_odd and self._is_known:
                pass  # only odd answers may be left of an earlier run: stopping would be for ever
            elif self._consecutive_failures >= max(16, 2 * self.config.connections):
                self._stopped = BackendError(
                    f"{self._consecutive_failures} calls in a row without an answer; "
                    f"the last one: {error}"
                )
        if self._stopped is not None:
            raise type(self._stopped)(str(self._stopped)) from error

    async def _post(self, transport: httpx.AsyncHTTPTransport, call: _Call) -> Answer:
        """One attempt, charged with what it took."""
        estimate = estimate_tokens(call.body)
        await self._request_limiter.acquire(1)
        await self._token_limiter.acquire(sum(estimate))
        reservation = None if self.meter is None else await self.meter.reserve(estimate)
        task = _current_task()
        self._queued.discard(task)
        self._under_way.add(task)
        # until the answer says otherwise: one that is lost on its way has been paid for as well
        usage: Usage | None = estimate
        try:
            answer = self._parse(await self._exchange(transport, call.request))
            usage = usage_of(answer, call.chat)
            ANSWER_USAGE.set(usage)
            self._answers += 1
        except _UnpaidError as error:
            usage = None
            raise error.reason from error.__cause__
        except MalformedAnswerError as error:
            usage = error.usage or usage
            raise
        finally:
            self._under_way.discard(task)
            self._queued.add(task)
            if self.meter is not None and reservation is not None:
                self.meter.settle(reservation, usage)
        if answer.prompt_tokens is not None:
            self._token_limiter.adjust(sum(usage) - sum(estimate))
        return answer

    async def _exchange(self, transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> bytes:
        """The body of an answer with status 200."""
        deadline = 2 * self.config.timeout
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
            failure = TransientError(f"{self.url}: {self._masked(_describe(error))}")
            if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
                raise _UnpaidError(failure) from error
            raise failure from error
        if response.status_code != 200:
            raise _UnpaidError(self._failure(response, data))
        return data

    def _parse(self, data: bytes) -> Answer:
        """The answer of a body, with secrets masked in its texts.

        Not in the body: JSON has several spellings of a character.
        """
        # a short password may be part of a reply by chance
        long_secrets = [secret for secret in self._secrets if len(secret) >= MIN_LONG_SECRET]
        least = credentials.PART_OF_REPLY
        return parse_answer(
            data, self.url, lambda text: credentials.mask(text, long_secrets, least)
        )

    def _failure(self, response: httpx.Response, data: bytes) -> BackendError:
        """The error of a status other than 200."""
        status = response.status_code
        if status in (401, 403):
            problem = "the key in it was refused" if self._key else "it is not set"
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
        words = error_message(data, self._masked)
        if self.top_logprobs == TOP_LOGPROBS and _ABOUT_TOP_LOGPROBS.search(words):
            words += ": if it allows fewer alternatives, set http.top_logprobs to their number"
        return UnansweredError(f"{self.url}: status {status}: {words}")

    def _masked(self, text: str) -> str:
        return credentials.mask(text, self._secrets)

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
            self._headers = {
                "Content-Type": "application/json",
                "Accept": "application/json",
                "User-Agent": "cai",
            }
            if self._key:
                self._headers["Authorization"] = f"Bearer {self._key}"
            self._idle = asyncio.LifoQueue()
            ssl_context = credentials.tls_context(self._address.scheme)
            proxy = self._proxy.proxy if self._proxy else None
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
            for _ in range(self.config.connections):
                transport = httpx.AsyncHTTPTransport(limits=limits, verify=ssl_context, proxy=proxy)
                self._transports.append(transport)
                self._idle.put_nowait(transport)
        return self._idle


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("an endpoint is called from a task of an event loop only")
    return task


class _Call(NamedTuple):
    request: httpx.Request
    body: dict[str, Any]
    chat: Chat


class _UnpaidError(Exception):
    """A request that no server has charged anything for."""

    def __init__(self, reason: BackendError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _parse_spec(spec: str) -> tuple[str, str]:
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
