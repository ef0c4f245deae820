"""An LM that notes what each row takes: calls, tokens, seconds. The forecast is made of that."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from cai.lm.base import CHARGES, LM, RefusedAnswerError, Sample, Usage, total_usage
from cai.records import Chat
from cai.simulation.workload import TriedCall

CHARACTERS_PER_TOKEN = 4.0
"""Assumed until a model has reported a count."""

FIRST_CHARACTER = 0x10000
"""Of a text with a character for each token: beyond the surrogates."""


@dataclass
class Used:
    """Use of one row."""

    calls: int = 0
    prompt: float = 0.0
    shared: float = 0.0
    completion: int = 0
    seconds: float = 0.0
    """Spent waiting for answers, summed over calls."""
    tried: list[TriedCall] = field(default_factory=list)
    """Each call, for the simulation of other machines."""

    @property
    def next_wave(self) -> int:
        """Of a call that begins now: one more than that of the latest answer."""
        return max((call.wave for call in self.tried), default=-1) + 1


ROW: ContextVar[Used] = ContextVar("ROW")
"""Entry of the row that the current task works on."""


class Probe:
    """An LM that records the use of each call in the entry of the current row."""

    def __init__(self, lm: LM) -> None:
        self.lm, self.fingerprint, self.max_concurrency = lm, lm.fingerprint, lm.max_concurrency
        self.last: dict[str, str] = {}
        self.characters = self.tokens = 0

    async def sample(
        self,
        chat: Chat,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> Sample:
        with self._tracked("sample", chat) as call:
            answer = await self.lm.sample(
                chat, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop
            )
            call.usage = (answer.prompt_tokens, answer.completion_tokens)
            self.characters += len(_text(chat))
            self.tokens += answer.prompt_tokens
        return answer

    async def aclose(self) -> None:
        await self.lm.aclose()

    async def choice_logprobs(
        self, chat: Chat, choices: Sequence[str], *, prefill: str = ""
    ) -> list[float] | None:
        with self._tracked("choice", chat) as call:
            logprobs = await self.lm.choice_logprobs(chat, choices, prefill=prefill)
            ratio = self.tokens / self.characters if self.characters else 1 / CHARACTERS_PER_TOKEN
            call.usage = (round(ratio * len(_text(chat))), 1)
        return logprobs

    @contextlib.contextmanager
    def _tracked(self, kind: str, chat: Chat) -> Iterator[_CallUse]:
        """Add a call's use to the current row: what an endpoint charged, else what the call says.

        An answer that is refused, or lost, is paid for as well.
        """
        call, charges = _CallUse(ROW.get().next_wave), list[Usage]()
        token = CHARGES.set(charges)
        started = time.perf_counter()
        try:
            yield call
        except RefusedAnswerError as error:
            call.usage = error.usage
            raise
        finally:
            CHARGES.reset(token)
            usage = total_usage(charges) if charges else call.usage
            if usage is not None:
                self._add(kind, _text(chat), usage, len(charges) or 1)
                row = ROW.get()
                row.seconds += time.perf_counter() - started
                row.tried.append(
                    TriedCall(
                        token_text(self.lm, chat) or _text(chat),
                        *usage,
                        wave=call.wave,
                        is_choice=kind == "choice",
                    )
                )

    def _add(self, kind: str, text: str, usage: Usage, calls: int) -> None:
        shared = len(os.path.commonprefix([text, self.last.get(kind, "")]))  # noqa: RUF071
        self.last[kind] = text
        row = ROW.get()
        row.calls += calls
        row.prompt += usage[0]
        row.completion += usage[1]
        row.shared += usage[0] * shared / max(1, len(text))


@dataclass
class _CallUse:
    wave: int
    usage: Usage | None = None


def token_text(lm: LM, chat: Chat) -> str | None:
    """A character for each token of a local model's prompt, with what its chat template writes;
    None for a model elsewhere. Texts begin alike where prompts do.
    """
    inner: object = lm
    while inner is not None:
        renderer = getattr(inner, "renderer", None)
        if renderer is not None:
            return "".join(chr(FIRST_CHARACTER + token) for token in renderer.prompt_ids(chat))
        inner = getattr(inner, "lm", None)
    return None


def _text(chat: Chat) -> str:
    return "\n".join(f"{m.role}: {m.content}" for m in chat)
