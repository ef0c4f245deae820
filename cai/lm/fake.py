"""An LM whose answers are plain functions of the chat. It ships with the package: tests and dry runs need no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cai.lm.base import Sample, truncate_at_stop
from cai.records import Chat
from cai.templates import compared

ReplyFn = Callable[[Chat, int], str]
"""(chat, seed) -> text"""
Odds = Callable[[Chat, Sequence[str]], list[float] | None]
"""(chat, choices) -> log-probabilities"""


def evenly(chat: Chat, choices: Sequence[str]) -> list[float] | None:
    """Has no opinion."""
    return [0.0] * len(choices)


class FakeLM:
    """Answers by `reply` and `odds`; remembers every chat that it was asked in `calls`."""

    def __init__(self, reply: ReplyFn, odds: Odds = evenly, *, max_concurrency: int = 8, name: str | None = None) -> None:
        self.reply, self.odds, self.max_concurrency = reply, odds, max_concurrency
        self.fingerprint = f"fake:{name or getattr(reply, '__name__', 'reply')}"
        self.calls: list[Chat] = []

    async def sample(self, chat: Chat, *, max_tokens: int, temperature: float, seed: int, stop: Sequence[str] = ()) -> Sample:
        self.calls.append(chat)
        words = self.reply(chat, seed).split(" ")
        text, stopped = truncate_at_stop(" ".join(words[:max_tokens]), stop)
        return Sample(
            text=text,
            finished=stopped or len(words) <= max_tokens,
            prompt_tokens=sum(len(m.content.split()) for m in chat),
            completion_tokens=min(len(words), max_tokens),
        )

    async def choice_logprobs(self, chat: Chat, choices: Sequence[str], *, prefill: str = "") -> list[float] | None:
        self.calls.append(chat)
        return self.odds(chat, choices)

    async def aclose(self) -> None:
        """Nothing to close."""


def echo(chat: Chat, seed: int) -> str:
    """The last message, said back."""
    return chat[-1].content


def polite(chat: Chat, seed: int) -> str:
    """Declines whatever is asked."""
    return "I'm sorry, but I can't help with that."


def brief(chat: Chat, choices: Sequence[str]) -> list[float] | None:
    """A judge with a taste and a bias: log-odds of 2 for the shorter reply, and 1 for whichever is shown as (A)."""
    shown = compared(chat)
    if shown is None or len(choices) != 2:
        return None
    a, b = map(len, shown)
    odds = 1.0 + 2.0 * ((a < b) - (a > b))
    return [-math.log1p(math.exp(-odds)), -math.log1p(math.exp(odds))]


FAKES: dict[str, tuple[ReplyFn, Odds]] = {
    "brief": (polite, brief),
    "echo": (echo, evenly),
    "polite": (polite, evenly),
}
"""The names that `fake:NAME` knows."""
