"""An LM whose calls are answered from the request log where possible."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import Any

from pydantic import ValidationError

from cai.lm.base import (
    ANSWER_USAGE,
    CHARGES,
    LM,
    TOP_LOGPROBS,
    RefusedAnswerError,
    Sample,
    Usage,
    estimate_prompt_tokens,
    total_usage,
)
from cai.lm.request_log import RequestLog
from cai.records import Chat, message_dicts

CallModel = Callable[[], Awaitable[tuple[Any, Usage]]]
"""() -> (answer as JSON, (prompt tokens, completion tokens))"""
MAX_LOGPROB = 1e6
"""A log-probability beyond is none, whoever logged it."""


class CachedLM:
    """An LM that looks into the log before it calls `lm`. Equal calls in flight are made once.

    A call outlives the caller that is cancelled: its answer is paid for, and is logged. `aclose`
    waits for it. An answer that cannot be used is logged as well, and refused again when it is
    asked for again, at no cost.
    """

    def __init__(self, lm: LM, log: RequestLog) -> None:
        self.lm = lm
        self.log = log
        self.fingerprint = lm.fingerprint
        self.max_concurrency = lm.max_concurrency
        self._in_flight: dict[str, asyncio.Task[Any]] = {}
        trust = getattr(lm, "trust", None)
        kinds = log.answered_kinds(lm.fingerprint) if trust else set()
        if trust and kinds:
            trust(has_logprobs="choice" in kinds)

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

        async def call_model() -> tuple[Any, Usage]:
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
        settings: dict[str, Any] = {"choices": list(choices), "prefill": prefill}
        if prefill and not getattr(self.lm, "prefill", True):
            settings["continued"] = False  # another request: the prefill is not sent
        top_logprobs = getattr(self.lm, "top_logprobs", None)
        if top_logprobs not in (None, TOP_LOGPROBS):
            settings["top_logprobs"] = top_logprobs  # another request: fewer alternatives

        async def call_model() -> tuple[Any, Usage]:
            ANSWER_USAGE.set(None)
            logprobs = await self.lm.choice_logprobs(chat, choices, prefill=prefill)
            counted = ANSWER_USAGE.get()
            estimate = estimate_prompt_tokens(message.content for message in chat), 1
            return logprobs, counted or estimate

        answer: list[float] | None = await self._cached("choice", chat, settings, call_model)
        return answer

    async def aclose(self) -> None:
        """Wait until the calls under way are answered and logged, and close the connections."""
        await self.lm.aclose()
        await asyncio.gather(*self._in_flight.values(), return_exceptions=True)

    async def _cached(
        self, kind: str, chat: Chat, settings: dict[str, Any], call_model: CallModel
    ) -> Any:
        """The logged answer, that of an equal call in flight, or a new one, which is logged."""
        request = json.dumps({"chat": message_dicts(chat), **settings}, sort_keys=True)
        identity = f"[{json.dumps(self.fingerprint)}, {json.dumps(kind)}, {request}]"
        key = sha256(identity.encode()).hexdigest()
        try:
            return self._replay(key, kind, self.log.find(key))
        except KeyError:
            pass
        task = self._in_flight.get(key)
        if task is None:
            task = asyncio.create_task(self._call_and_log(key, kind, request, call_model))
            self._in_flight[key] = task
            task.add_done_callback(lambda done: self._end(key, done))
        # a cancelled caller does not cancel the call: it is paid for
        return await asyncio.shield(task)

    async def _call_and_log(self, key: str, kind: str, request: str, call_model: CallModel) -> Any:
        """The answer, which is logged with all that it took: also what its failed attempts took."""
        started = time.monotonic()
        charges: list[Usage] = []
        charged_by_caller = CHARGES.get()
        CHARGES.set(charges)
        try:
            answer, tokens = await call_model()
        except BaseException as error:  # a call that is cancelled under way is paid for, too
            refused = _refused_answer(error)
            if refused is not None or charges:
                # one that may be answered another time is counted in the log, but not replayed
                lasting = refused is not None and refused.lasting
                name = key if lasting else f"{key} {time.time_ns()}"
                usage = total_usage(charges) if charges else (0, 0)
                if refused is not None and not charges:
                    usage = refused.usage
                logged = _logged_refusal(error, refused, usage)
                entry = (logged, usage, time.monotonic() - started)
                self.log.add(name, self.fingerprint, kind, request, *entry)
            raise
        finally:
            if charged_by_caller is not None:
                charged_by_caller.extend(charges)
        seconds = time.monotonic() - started
        paid = total_usage(charges) if charges else tokens
        self.log.add(key, self.fingerprint, kind, request, answer, paid, seconds)
        return answer

    def _end(self, key: str, task: asyncio.Task[Any]) -> None:
        del self._in_flight[key]
        if not task.cancelled():
            task.exception()  # marks it as retrieved: asyncio would warn if no caller waits

    def _replay(self, key: str, kind: str, answer: Any) -> Any:
        """A logged answer.

        Raises:
            RefusedAnswerError: it could not be used, and cannot be now.
            KeyError: it is not an answer, as older versions may have logged.
        """
        if isinstance(answer, dict) and "refused" in answer:
            usage = int(answer["prompt_tokens"]), int(answer["completion_tokens"])
            reason, text = answer["finish_reason"], answer["text"]
            if text is not None and reason in getattr(self.lm, "allow", ()):
                tokens = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
                return {"text": text, "finished": False, **tokens}
            raise RefusedAnswerError(answer["refused"], usage, finish_reason=reason, text=text)
        if not _is_answer(kind, answer):
            self.log.remove(key)
            raise KeyError(key)
        return answer


def _is_answer(kind: str, answer: Any) -> bool:
    if kind == "choice":
        return answer is None or (
            isinstance(answer, list)
            and all(isinstance(logprob, float | int) for logprob in answer)
            and all(abs(logprob) <= MAX_LOGPROB for logprob in answer)
        )
    try:
        Sample.model_validate(answer)
    except ValidationError:
        return False
    return True


def _refused_answer(error: BaseException) -> RefusedAnswerError | None:
    """The refusal that a call ended with, or that stopped the run."""
    for candidate in (error, error.__cause__):
        if isinstance(candidate, RefusedAnswerError):
            return candidate
    return None


def _logged_refusal(
    error: BaseException, refused: RefusedAnswerError | None, usage: Usage
) -> dict[str, Any]:
    return {
        "refused": str(refused or error) or type(error).__name__,
        "finish_reason": refused.finish_reason if refused else None,
        "text": refused.text if refused else None,
        "prompt_tokens": usage[0],
        "completion_tokens": usage[1],
    }
