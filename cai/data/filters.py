"""What a prompt must be like on its own: length, language, no personal data, nothing of an evaluation in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Literal, TypeVar

from pydantic import Field

from cai.records import FrozenModel, Message, Prompt, TrainingChat

SaidT = TypeVar("SaidT", Prompt, TrainingChat)
EVALUATED = "in an evaluation"
"""Why a text goes that shares a run of words with an evaluation text."""


class HygieneConfig(FrozenModel):
    """Which prompts are let through. Exact repetitions never are; every other filter is off until it is asked for."""

    min_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    """Of all turns together, as the run's model counts them; an endpoint's are taken to be four characters each."""
    languages: tuple[str, ...] = ()
    """Two-letter codes; texts in other languages go."""
    pii: Literal["keep", "mask", "drop"] = "keep"
    """Email addresses, phone and card numbers, national ids, accounts, IP addresses."""
    region: str = Field("US", pattern="^[A-Z]{2}$")
    """Country whose phone numbers are written without a +."""
    per_user: int | None = Field(None, ge=1)
    """Prompts of one `user`, at most: the first ones."""
    prefix: int | None = Field(None, ge=20)
    """Of prompts that begin with the same so many characters, the first goes through."""
    near: float | None = Field(None, gt=0.5, le=1)
    """Of prompts whose word shingles are at least so alike (Jaccard, estimated), the first goes through."""
    against: tuple[str, ...] = ()
    """Files of evaluation texts; prompts that share a run of words with one go."""
    ngram: int = Field(8, ge=3)
    """Length of that run."""

    @property
    def of_training_rows(self) -> HygieneConfig:
        """What applies again where replies are learnt from: not lengths, users and beginnings, which are a prompt's alone."""
        return self.model_copy(update={"min_tokens": None, "max_tokens": None, "per_user": None, "prefix": None})


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def key(text: str) -> int:
    """64 bits of a text, the same in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def told(prompt: Prompt | TrainingChat) -> str:
    """All turns as one text."""
    return "\n".join(m.content for m in prompt.chat)


def asks_for_tokens(config: HygieneConfig) -> bool:
    return config.min_tokens is not None or config.max_tokens is not None


class Rules:
    """The filters of `config` that look at one prompt at a time.

    Args:
        count: text -> tokens.
        evaluation: texts that nothing may be learnt from.
    """

    def __init__(self, config: HygieneConfig, count: Callable[[str], int], evaluation: Iterable[str] = ()) -> None:
        self.config, self.count = config, count
        self.known: set[int] = {gram for text in evaluation for gram in self._grams(text)}

    def judge(self, prompt: SaidT) -> tuple[SaidT, str | None]:
        """(the prompt, masked if it had to be; why it goes). The first filter that objects gives the reason; None: it stays."""
        c, text = self.config, told(prompt)
        if c.min_tokens is not None or c.max_tokens is not None:
            length = self.count(text)
            if c.min_tokens is not None and length < c.min_tokens:
                return prompt, "too short"
            if c.max_tokens is not None and length > c.max_tokens:
                return prompt, "too long"
        if c.languages and (found := language(text)) not in c.languages:
            return prompt, f"language {found}"
        if self.knows(text):
            return prompt, EVALUATED
        return self._personal(prompt) if c.pii != "keep" else (prompt, None)

    def knows(self, text: str) -> bool:
        """Whether it shares a run of words with an evaluation text."""
        return bool(self.known) and not self.known.isdisjoint(self._grams(text))

    def _personal(self, prompt: SaidT) -> tuple[SaidT, str | None]:
        from cai.data.pii import mask, personal

        spans = [personal(m.content, self.config.region) for m in prompt.chat]
        if not any(spans):
            return prompt, None
        if self.config.pii == "drop":
            return prompt, f"personal data ({next(s[0].what for s in spans if s)})"
        chat = tuple(Message(role=m.role, content=mask(m.content, s)) for m, s in zip(prompt.chat, spans, strict=True))
        return prompt.model_copy(update={"chat": chat}), None

    def _grams(self, text: str) -> set[int]:
        """Runs of `ngram` words as numbers; a shorter text is one run."""
        said, n = words(text), self.config.ngram
        return {key(" ".join(said[i : i + n])) for i in range(max(1, len(said) - n + 1))} if said else set()


def language(text: str) -> str:
    """Two-letter code of the likeliest language."""
    import py3langid  # its model takes a second to read: only those who ask for languages wait for it

    code: str = py3langid.classify(text)[0]
    return code


def shingles(text: str, size: int = 3) -> Sequence[str]:
    """Runs of three words, each once; a shorter text is one run."""
    said = words(text)
    return list(dict.fromkeys(" ".join(said[i : i + size]) for i in range(max(1, len(said) - size + 1))))
