"""An LM that looks into the request log before it asks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from cai.lm.base import LM, Sample
from cai.lm.request_log import RequestLog
from cai.records import Chat, message_dicts


class CachedLM:
    """An LM that looks into the log first. Equal calls under way at the same time are asked once."""

    def __init__(self, lm: LM, log: RequestLog) -> None:
        self.lm, self.log, self.fingerprint, self.max_concurrency = lm, log, lm.fingerprint, lm.max_concurrency
        self._under_way: dict[str, asyncio.Future[Any]] = {}

    async def sample(self, chat: Chat, *, max_tokens: int, temperature: float, seed: int, stop: Sequence[str] = ()) -> Sample:
        settings = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "stop": list(stop)}

        async def ask() -> tuple[Any, tuple[int, int]]:
            said = await self.lm.sample(chat, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop)
            return said.model_dump(mode="json"), (said.prompt_tokens, said.completion_tokens)

        return Sample.model_validate(await self._answer("sample", chat, settings, ask))

    async def choice_logprobs(self, chat: Chat, choices: Sequence[str], *, prefill: str = "") -> list[float] | None:
        settings = {"choices": list(choices), "prefill": prefill}

        async def ask() -> tuple[Any, tuple[int, int]]:
            found = await self.lm.choice_logprobs(chat, choices, prefill=prefill)
            return found, (sum(len(m.content) // 4 + 4 for m in chat), 1)

        answer: list[float] | None = await self._answer("choice", chat, settings, ask)
        return answer

    async def aclose(self) -> None:
        await self.lm.aclose()

    async def _answer(self, kind: str, chat: Chat, settings: dict[str, Any], ask: Any) -> Any:
        request = json.dumps({"chat": message_dicts(chat), **settings}, sort_keys=True)
        key = sha256(f"[{json.dumps(self.fingerprint)}, {json.dumps(kind)}, {request}]".encode()).hexdigest()
        try:
            return self.log.find(key)
        except KeyError:
            pass
        if key in self._under_way:
            return await asyncio.shield(self._under_way[key])
        future = self._under_way[key] = asyncio.get_running_loop().create_future()
        started = time.monotonic()
        try:
            answer, tokens = await ask()
            self.log.add(key, self.fingerprint, kind, request, answer, tokens, time.monotonic() - started)
            future.set_result(answer)
        except BaseException as error:
            future.set_exception(error) if isinstance(error, Exception) else future.cancel()
            future.exception() if not future.cancelled() else None  # looked at: nobody else may be waiting for it
            raise
        finally:
            del self._under_way[key]
        return answer
