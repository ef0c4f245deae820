"""The one seam to a model: two async methods, one item a call. Batching is the back end's business."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cai.records import Chat, FrozenModel


class Sample(FrozenModel):
    """A drawn reply. `finished` is False when it was cut at the token limit."""

    text: str
    finished: bool
    prompt_tokens: int
    completion_tokens: int


def truncate_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` before the first of the stop texts, and whether there was one."""
    places = [place for s in stop if (place := text.find(s)) >= 0]
    return (text[: min(places)].strip(), True) if places else (text, False)


class LM(Protocol):
    """A chat model. A trained policy is one too."""

    fingerprint: str
    """What makes two models answer alike: weights digest or URL and model name, template, dtype."""
    max_concurrency: int
    """Rows worth having in flight at once."""

    async def sample(self, chat: Chat, *, max_tokens: int, temperature: float, seed: int, stop: Sequence[str] = ()) -> Sample:
        """One reply. Temperature 0 is greedy; `seed` fixes the draw; a reply is cut before the first `stop` text."""
        ...

    async def choice_logprobs(self, chat: Chat, choices: Sequence[str], *, prefill: str = "") -> list[float] | None:
        """log P(choice | chat, prefill), nats, one per choice; None when the model gives none of them a number.

        The reply is taken to begin with `prefill`; a choice of several tokens gets the sum of their log-probabilities.
        """
        ...

    async def aclose(self) -> None:
        """Close connections, if there are any; the next call opens them again."""
        ...
