"""An LM whose calls are answered from the request log where possible."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import Any

from cai.lm.base import LM, Sample, estimate_prompt_tokens
from cai.lm.request_log import RequestLog
from cai.records import Chat, message_dicts

CallModel = Callable[[], Awaitable[tuple[Any, tuple[int, int]]]]
"""() -> (answer as JSON, (prompt tokens, completion tokens))"""


class CachedLM:
    """An LM that looks into the log before it calls `lm`. Equal calls in flight are made once."""

    def __init__(self, lm: LM, log: RequestLog) -> None:
        self.lm = lm
        self.log = log
        self.fingerprint = lm.fingerprint
        self.max_concurrency = lm.max_concurrency
        self._in_flight: dict[str, asyncio.Future[Any]] = {}

    async def sample(
        self,
        chat: Chat,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> Sample:
        settings = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "stop": list(stop),
        }

        async def call_model() -> tuple[Any, tuple[int, int]]:
            sample = await self.lm.sample(
                chat, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop
            )
            tokens = (sample.prompt_tokens, sample.completion_tokens)
            return sample.model_dump(mode="json"), tokens

        answer = await self._cached("sample", chat, settings, call_model)
        return Sample.model_validate(answer)

    async def choice_logprobs(
        self, chat: Chat, choices: Sequence[str], *, prefill: str = ""
    ) -> list[float] | None:
        settings = {"choices": list(choices), "prefill": prefill}

        async def call_model() -> tuple[Any, tuple[int, int]]:
            logprobs = await self.lm.choice_logprobs(chat, choices, prefill=prefill)
            return logprobs, (estimate_prompt_tokens(message.content for message in chat), 1)

        answer: list[float] | None = await self._cached("choice", chat, settings, call_model)
        return answer

    async def aclose(self) -> None:
        await self.lm.aclose()

    async def _cached(
        self, kind: str, chat: Chat, settings: dict[str, Any], call_model: CallModel
    ) -> Any:
        """The logged answer, that of an equal call in flight, or a new one, which is logged."""
        request = json.dumps({"chat": message_dicts(chat), **settings}, sort_keys=True)
        identity = f"[{json.dumps(self.fingerprint)}, {json.dumps(kind)}, {request}]"
        key = sha256(identity.encode()).hexdigest()
        try:
            return self.log.find(key)
        except KeyError:
            pass
        if key in self._in_flight:
            return await asyncio.shield(self._in_flight[key])
        future = self._in_flight[key] = asyncio.get_running_loop().create_future()
        started = time.monotonic()
        try:
            answer, tokens = await call_model()
            seconds = time.monotonic() - started
            self.log.add(key, self.fingerprint, kind, request, answer, tokens, seconds)
            future.set_result(answer)
        except BaseException as error:
            _fail(future, error)
            raise
        finally:
            del self._in_flight[key]
        return answer


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Give the error to the callers that wait for the future, if there are any."""
    if isinstance(error, Exception):
        future.set_exception(error)
        future.exception()  # marks it as retrieved: asyncio would warn if no caller waits
    else:
        future.cancel()
