"""An LM behind an OpenAI-compatible chat endpoint (vLLM, SGLang, llama.cpp, a vendor).

One call is one request. Only transient faults are retried: timeouts, dropped connections, status
408, 409, 425, 429 and 5xx, and malformed answers. A call that stays without an answer fails alone
(`UnansweredError`: its row becomes null with the reason). A rejected key, many failures in a row,
or a judge without log-probabilities stop the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from cai.errors import BackendError, TransientError, UnansweredError
from cai.lm import credentials
from cai.lm.base import ANSWER_USAGE, LM, RefusedAnswerError, Sample, Usage
from cai.lm.body import MalformedAnswerError
from cai.lm.chat_completions import Answer, estimate_tokens, parse_sample, thinking_fields, usage_of
from cai.lm.credentials import API_KEY_VARIABLE
from cai.lm.endpoint_state import EndpointState
from cai.lm.engines import EngineServer
from cai.lm.exchange import Exchange, UnpaidError, encode, parse_spec
from cai.lm.http_config import HttpConfig
from cai.lm.option_logprobs import begins_with_thought, option_logprobs
from cai.lm.rate_limit import RateLimiter, retry_wait
from cai.modeling.model_spec import split_spec
from cai.records import Chat, message_dicts

__all__ = ["API_KEY_VARIABLE", "HttpConfig", "HttpLM"]

if TYPE_CHECKING:
    from cai.lm.batch import Batch
    from cai.lm.budget import Meter

T = TypeVar("T")
CALLS_PER_CONNECTION = 16
"""Rows in flight for each connection, so that connections never wait for a slow row."""
EARLY_ATTEMPTS = 6
"""Attempts at a server that has not answered yet, some 10 s: it may not be running."""
MALFORMED_ATTEMPTS = 3
"""Attempts that may end in an answer which is not in the format: each may have been paid for."""
PATIENCE = 300.0
"""Seconds after which a call is given up, if it was tried `EARLY_ATTEMPTS` times."""
OPTION_TOKENS = 8
"""Of a judge's answer after its thought: white space or a bracket may come before the option."""
JUDGE_THINKING_TEMPERATURE = 0.6
"""Greedy thoughts repeat themselves."""
DRAIN_SECONDS = 60.0
"""Given to calls under way when a run stops: their answers are paid for, and are logged."""


class HttpLM:
    """`http://host:port/v1#model`, with the key from the environment (`CAI_API_KEY`) if needed.

    Args:
        server: started with the first call, if `cai` starts the endpoint itself.

    Raises:
        UsageError: the spec names no model, or the key or the proxy in the environment is unusable.
    """

    def __init__(
        self, spec: str, config: HttpConfig | None = None, server: EngineServer | None = None
    ) -> None:
        spec, self.thinking = split_spec(spec)
        self.url, self.model = parse_spec(spec)
        self.config = config or HttpConfig()
        self.server = server
        self.meter: Meter | None = None
        """Charges the calls, if they are limited."""
        self.batch: Batch | None = None
        """Answers the calls in place of the server, if there is one."""
        self.allow = self.config.allow
        self.prefill = self.config.prefill and not self.thinking.is_on
        self.top_logprobs = self.config.top_logprobs
        name = f"{self.url}#{self.model}" if server is None else server.fingerprint
        self.fingerprint = f"{name}{self.thinking.text}"
        self.max_concurrency = self.config.connections * CALLS_PER_CONNECTION
        key = credentials.read_api_key() if server is None else server.key
        self._exchange = Exchange(self.url, self.model, self.config, key)
        self._state = EndpointState(
            self.url,
            max(16, 2 * self.config.connections),
            through_proxy=self._exchange.proxy is not None,
        )
        self._request_limiter = RateLimiter(self.config.requests_per_minute)
        self._token_limiter = RateLimiter(self.config.tokens_per_minute)
        self._session: aiohttp.ClientSession | None = None
        self._free = asyncio.Semaphore(0)
        """Connections of the session that no call has."""
        self._queued: set[asyncio.Task[Any]] = set()
        """Calls that are waiting for a connection, a limit or their next attempt."""
        self._under_way: set[asyncio.Task[Any]] = set()
        """Calls that the server is answering."""

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

    async def answer(self, body: dict[str, Any]) -> bytes:
        """The body of the answer to a request that another process has written.

        Raises:
            BackendError: there is none, after as many attempts as the settings allow.
        """
        return await self._call(body, (), lambda answer: answer.body)

    @property
    def _thinking_tokens(self) -> int:
        """Added to a call's limit: servers count thoughts with the reply."""
        return self.thinking.tokens if self.thinking.is_on else 0

    def trust(self, *, has_logprobs: bool) -> None:
        """The endpoint has answered an earlier run: odd answers do not stop this one at once."""
        self._state.is_known = True
        if has_logprobs:
            self._state.without_logprobs = None

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
        self._state.stopped = None
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # ---- one call ----

    async def _call(self, body: dict[str, Any], chat: Chat, parse: Callable[[Answer], T]) -> T:
        """The parsed answer, after as many attempts as the settings allow."""
        if self.batch is not None:
            return parse(self._batched(self.batch, body, chat))
        task = _current_task()
        self._queued.add(task)
        try:
            session = self._open()
            async with self._free:
                if self.server is not None:
                    await self.server.ready()
                self._state.refuse_if_stopped()
                call = _Call(session, encode(body | {"model": self.model}), body, chat)
                result = parse(await self._post_with_retries(call))
        except (TransientError, UnansweredError) as error:
            if isinstance(error, RefusedAnswerError) and self.meter is not None:
                self.meter.count_refused()
            self._state.fail(error, is_last_call=self._is_last_call())
            if isinstance(error, RefusedAnswerError):
                raise
            raise UnansweredError(str(error)) from error
        except BackendError as error:
            self._state.stopped = self._state.stopped or error
            raise
        finally:
            self._queued.discard(task)
        self._state.succeed()
        return result

    def _batched(self, batch: Batch, body: dict[str, Any], chat: Chat) -> Answer:
        """The answer that a batch has to the request; one that is malformed is requested again."""
        request = body | {"model": self.model}
        try:
            answer = self._exchange.parse(batch.answer(request))
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
                self._state.without_logprobs = None
                return logprobs
            problem = (
                "the judge begins with <think> instead of an option: turn its thinking off "
                "(MODEL?thinking=off), or read the option after it (MODEL?thinking=on)"
            )
        usage = usage_of(answer, chat)
        self._state.count_without_logprobs(problem, is_last_call=self._is_last_call())
        raise RefusedAnswerError(problem, usage, lasting=False)

    async def _post_with_retries(self, call: _Call) -> Answer:
        try:
            return await self._post(call)
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
            is_early = not self._state.answers or (state.seconds_since_start or 0.0) > PATIENCE
            return tried >= EARLY_ATTEMPTS and is_early

        policy = AsyncRetrying(
            retry=retry_if_exception_type(TransientError), stop=stop, wait=retry_wait, reraise=True
        )

        async def attempt() -> Answer:
            if errors:
                raise errors.pop()
            self._state.refuse_if_stopped()
            return await self._post(call)

        return await policy(attempt)

    def _is_last_call(self) -> bool:
        """Whether no call but the current one is queued or under way."""
        return len(self._queued | self._under_way) <= 1

    async def _post(self, call: _Call) -> Answer:
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
            answer = self._exchange.parse(await self._exchange.send(call.session, call.content))
            usage = usage_of(answer, call.chat)
            ANSWER_USAGE.set(usage)
            self._state.answers += 1
        except UnpaidError as error:
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

    def _open(self) -> aiohttp.ClientSession:
        """The connections, which the first call in an event loop opens."""
        if self._session is None:
            self._session = self._exchange.open_session(self.config.connections)
            self._free = asyncio.Semaphore(self.config.connections)
        return self._session


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("an endpoint is called from a task of an event loop only")
    return task


class _Call(NamedTuple):
    session: aiohttp.ClientSession
    content: bytes
    body: dict[str, Any]
    chat: Chat


def asks_server(lm: LM) -> bool:
    """Whether a model's calls go to a server, be it through a log or a budget."""
    inner: object = lm
    while not isinstance(inner, HttpLM) and hasattr(inner, "lm"):
        inner = inner.lm
    return isinstance(inner, HttpLM)
