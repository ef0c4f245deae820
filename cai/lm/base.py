"""The LM protocol: two async methods, one item a call. Batching is up to the back end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import Protocol

from cai.errors import UnansweredError
from cai.records import Chat, FrozenModel

TOP_LOGPROBS = 20
"""Alternatives requested for a choice: the most that OpenAI's API allows."""
Usage = tuple[int, int]
"""(prompt tokens, completion tokens)"""
ANSWER_USAGE: ContextVar[Usage | None] = ContextVar("ANSWER_USAGE", default=None)
"""Usage of the last answer that the current task received from an endpoint; None: unknown."""
CHARGES: ContextVar[list[Usage] | None] = ContextVar("CHARGES", default=None)
"""Gets the usage of every attempt that the current task is charged with: of answers that were
refused, malformed or lost on their way as well. None: nobody keeps count."""


class Sample(FrozenModel):
    """A sampled reply. `finished` is False when it was cut at the token limit."""

    text: str
    finished: bool
    prompt_tokens: int
    completion_tokens: int
    """With those of the thought."""
    thought: str | None = None
    """What the model thought before it replied; None: nothing, or the server does not show it."""


NO_SAMPLE = Sample(text="", finished=False, prompt_tokens=0, completion_tokens=0)
"""Where there is no reply."""


class RefusedAnswerError(UnansweredError):
    """An answer that was paid for and cannot be used: cut, filtered, without text or numbers.

    Args:
        usage: what it is charged with.
        finish_reason: why the server ended the reply, if it is refused for that.
        text: the reply, if it has one.
        lasting: whether the same request would be refused again. The log answers it then.
    """

    def __init__(
        self,
        message: str,
        usage: Usage,
        *,
        finish_reason: str | None = None,
        text: str | None = None,
        lasting: bool = True,
    ) -> None:
        super().__init__(message)
        self.usage = usage
        self.finish_reason = finish_reason
        self.text = text
        self.lasting = lasting


def total_usage(charges: Iterable[Usage]) -> Usage:
    """The sums of prompt and of completion tokens."""
    charges = list(charges)
    return sum(prompt for prompt, _ in charges), sum(completion for _, completion in charges)


def truncate_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` before the first occurrence of a stop text, and whether there was one."""
    indices = [text.find(stop_text) for stop_text in stop]
    matches = [index for index in indices if index >= 0]
    if not matches:
        return text, False
    return text[: min(matches)].strip(), True


def estimate_prompt_tokens(messages: Iterable[str]) -> int:
    """Four characters a token, and four tokens a message for its role and delimiters."""
    return sum(len(message) // 4 + 4 for message in messages)


class LM(Protocol):
    """A chat model. A trained policy is one too."""

    fingerprint: str
    """Equal for models that answer alike: weights digest or URL and model name, template, dtype."""
    max_concurrency: int
    """Number of rows worth having in flight at once."""

    async def sample(
        self,
        chat: Chat,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> Sample:
        """One reply, cut before the first `stop` text.

        Temperature 0 is greedy; `seed` determines the sample.
        """
        ...

    async def choice_logprobs(
        self, chat: Chat, choices: Sequence[str], *, prefill: str = ""
    ) -> list[float] | None:
        """log P(choice | chat, prefill) of each choice, in nats.

        The reply begins with `prefill`. A choice of several tokens gets the sum of their
        log-probabilities.

        Returns:
            None when the model gives no choice a number.
        """
        ...

    async def aclose(self) -> None:
        """Close connections, if there are any; the next call opens them again."""
        ...
