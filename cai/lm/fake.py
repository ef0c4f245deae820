"""An LM whose answers are plain functions of the chat, for tests and dry runs without a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cai.lm.base import Sample, truncate_at_stop
from cai.records import Chat
from cai.templates import parse_comparison

RECENT_CALLS = 1000
ReplyFn = Callable[[Chat, int], str]
"""(chat, seed) -> text"""
ChoiceFn = Callable[[Chat, Sequence[str]], list[float] | None]
"""(chat, choices) -> log-probabilities"""


def uniform(chat: Chat, choices: Sequence[str]) -> list[float] | None:
    """Equal scores for all choices."""
    return [0.0] * len(choices)


class FakeLM:
    """Answers by `reply` and `odds`.

    `num_calls` counts the calls; `calls` lists the chats of the latest, `RECENT_CALLS` or more.
    """

    def __init__(
        self,
        reply: ReplyFn,
        odds: ChoiceFn = uniform,
        *,
        max_concurrency: int = 8,
        name: str | None = None,
    ) -> None:
        self.reply = reply
        self.odds = odds
        self.max_concurrency = max_concurrency
        self.fingerprint = f"fake:{name or getattr(reply, '__name__', 'reply')}"
        self.num_calls = 0
        self.calls: list[Chat] = []

    async def sample(
        self,
        chat: Chat,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> Sample:
        self._record(chat)
        words = self.reply(chat, seed).split(" ")
        text, stopped = truncate_at_stop(" ".join(words[:max_tokens]), stop)
        return Sample(
            text=text,
            finished=stopped or len(words) <= max_tokens,
            prompt_tokens=sum(len(m.content.split()) for m in chat),
            completion_tokens=min(len(words), max_tokens),
        )

    async def choice_logprobs(
        self, chat: Chat, choices: Sequence[str], *, prefill: str = ""
    ) -> list[float] | None:
        self._record(chat)
        return self.odds(chat, choices)

    def _record(self, chat: Chat) -> None:
        self.num_calls += 1
        self.calls.append(chat)
        if len(self.calls) > 2 * RECENT_CALLS:  # a file of many rows would fill the memory
            del self.calls[:-RECENT_CALLS]

    async def aclose(self) -> None:
        """Nothing to close."""


def echo(chat: Chat, seed: int) -> str:
    """The content of the last message."""
    return chat[-1].content


def polite(chat: Chat, seed: int) -> str:
    """A refusal of any request."""
    return "I'm sorry, but I can't help with that."


def brief(chat: Chat, choices: Sequence[str]) -> list[float] | None:
    """A judge with log-odds of 2 for the shorter reply and a position bias of 1 for reply (A)."""
    replies = parse_comparison(chat)
    if replies is None or len(choices) != 2:
        return None
    length_a, length_b = map(len, replies)
    log_odds = 1.0 + 2.0 * ((length_a < length_b) - (length_a > length_b))
    return [-math.log1p(math.exp(-log_odds)), -math.log1p(math.exp(log_odds))]


FAKES: dict[str, tuple[ReplyFn, ChoiceFn]] = {
    "brief": (polite, brief),
    "echo": (echo, uniform),
    "polite": (polite, uniform),
}
"""The models of `fake:NAME`, by name."""
