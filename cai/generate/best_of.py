"""Samples of one text, and the choice of the best one by the rubric's grade."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cai import reply_parsing
from cai.async_map import gather
from cai.errors import UnansweredError, is_passing
from cai.lm.base import LM
from cai.records import Chat
from cai.seeds import derive


class Parser(Protocol):
    """A parser of what a model generated: the text that is used, or None."""

    def __call__(self, text: str, *, finished: bool) -> str | None: ...


@dataclass(frozen=True)
class TextRequest:
    """What to sample. The seed of a sample follows from the run's seed, `address` and its index."""

    address: tuple[str, str]
    """Id of the prompt, and the name of the text among those about it."""
    chat: Chat
    max_tokens: int
    temperature: float
    parse: Parser = reply_parsing.parse_reply


class Draw(NamedTuple):
    """A sampled text, empty if nothing is left of it."""

    text: str
    finished: bool
    """Whether the model ended it; False: cut at the token limit."""
    number: int = 0
    """Its index among the samples."""
    total: int = 1
    """Number of samples, of which this is the best."""

    @property
    def choice(self) -> tuple[int | None, int | None]:
        """(samples, index of this one), as rows record them: unknown where nothing was chosen."""
        return (self.total, self.number) if self.total > 1 else (None, None)


class Judgement(NamedTuple):
    """What decides between samples."""

    objection: str | None
    """The gate's."""
    score: float | None
    """By the rubric; None: not graded."""


async def sample_text(lm: LM, request: TextRequest, seed: int, index: int = 0) -> Draw:
    """One text. The first sample is the same however many there are."""
    prompt_id, name = request.address
    sample = await lm.sample(
        request.chat,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        seed=derive(seed, "revise", prompt_id, f"{name} sample {index}" if index else name),
    )
    text = request.parse(sample.text, finished=sample.finished) or ""
    return Draw(text, sample.finished, index)


async def sample_best(
    lm: LM, request: TextRequest, seed: int, count: int, judge: Callable[[str], Judgement]
) -> Draw:
    """The best of `count` samples.

    Those that the gate lets through come first. Of these, those that the model finished come
    first, then those with a grade, then the higher score; of equals it is the first.

    Raises:
        UnansweredError: no sample has an answer, or one of them has none for now. Samples that
            an endpoint refuses for good are passed over.
    """
    if count == 1:
        return await sample_text(lm, request, seed)

    async def attempt(index: int) -> Draw | UnansweredError:
        try:
            return await sample_text(lm, request, seed, index)
        except UnansweredError as error:
            if is_passing(error.reason):
                raise
            return error

    answers = await gather([attempt(index) for index in range(count)])
    draws = [answer for answer in answers if isinstance(answer, Draw)]
    if not draws:
        raise next(answer for answer in answers if isinstance(answer, UnansweredError))

    def rank(draw: Draw) -> tuple[bool, bool, bool, float]:
        objection, score = judge(draw.text)
        return objection is not None, not draw.finished, score is None, -(score or 0.0)

    return min(draws, key=rank)._replace(total=count)
