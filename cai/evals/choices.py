"""Questions with options, answered by log-probabilities: (chat, options, right ones) -> rows.

Nothing is sampled. A lettered question is asked once for each rotation of its options, so that
every option stands at every letter once: a preference for a letter adds the same to all of them.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from statistics import fmean
from string import ascii_uppercase
from typing import Literal

from pydantic import Field, model_validator

from cai.async_map import gather
from cai.errors import UnansweredError
from cai.lm.base import LM
from cai.lm.http import asks_server
from cai.records import Chat, Message, Number, Row
from cai.seeds import rng
from cai.templates import fill_in

LETTERED = "{question}\n\n{options}\n\nAnswer with the letter of one option."
LETTER = "The answer is ("
"""How the reply to a lettered question begins."""
NO_LOGPROBS = "the model gives no log-probability of some option"
SINGLE_TOKENS = "an endpoint gives log-probabilities of single tokens, not of replies"


class ChoiceItem(Row):
    """A question with options."""

    source: str
    """The row of the data that it is about; several questions may be about one row."""
    cluster: str
    """Questions that are alike: errors count clusters."""
    chat: Chat = Field(min_length=1)
    """Ends with a user turn."""
    options: tuple[str, ...] = Field(min_length=2)
    form: Literal["letters", "words", "replies"]
    """`letters`: the options are shown under letters. `words`: the question names them, and each
    is one token. `replies`: each is scored as the reply to the chat."""
    prefill: str = ""
    """How the reply begins, where the form is `words`."""
    right: tuple[int, ...] = ()
    """Indices of the right options, the best first."""
    facts: dict[str, str] = {}
    """What the metrics group by."""

    @model_validator(mode="after")
    def _check(self) -> ChoiceItem:
        if self.form == "letters" and len(self.options) > len(ascii_uppercase):
            raise ValueError(f"{len(self.options)} options, and only 26 letters")
        if not all(0 <= index < len(self.options) for index in self.right):
            raise ValueError(f"no option has the index {max(self.right)}; they count from 0")
        return self


class ChoiceAnswer(Row):
    """One model's answer to a question."""

    source: str
    """`ChoiceItem.id`."""
    subject: str
    item: ChoiceItem
    logprobs: tuple[tuple[Number, ...], ...] | None
    """Of the options, in nats, each time the question was asked."""
    unscored: str | None = None
    """The reason why there are none."""

    def mean_logprobs(self) -> list[float] | None:
        """Of each option, over the times the question was asked."""
        if self.logprobs is None:
            return None
        return [fmean(column) for column in zip(*self.logprobs, strict=True)]

    def probabilities(self) -> list[float] | None:
        """P(option) among the options: softmax of the mean log-probabilities."""
        means = self.mean_logprobs()
        if means is None:
            return None
        weights = [math.exp(mean - max(means)) for mean in means]
        return [weight / sum(weights) for weight in weights]

    def choice(self) -> int | None:
        """Index of the most probable option; of several, one drawn by the question's id."""
        means = self.mean_logprobs()
        if means is None:
            return None
        best = [index for index, mean in enumerate(means) if mean == max(means)]
        return best[0] if len(best) == 1 else rng(0, "tie", self.source).choice(best)


def choice_step(subject: str, lm: LM) -> Callable[[ChoiceItem], Awaitable[ChoiceAnswer]]:
    """The step that answers one question."""
    has_replies = not asks_server(lm)

    def answer(
        item: ChoiceItem, logprobs: tuple[tuple[float, ...], ...] | None, reason: str | None = None
    ) -> ChoiceAnswer:
        return ChoiceAnswer(
            source=item.id, subject=subject, item=item, logprobs=logprobs, unscored=reason
        )

    async def choose(item: ChoiceItem) -> ChoiceAnswer:
        if item.form == "replies" and not has_replies:
            return answer(item, None, SINGLE_TOKENS)
        turns = range(len(item.options) if item.form == "letters" else 1)
        try:
            rows = await gather([_option_logprobs(lm, item, turn) for turn in turns])
        except UnansweredError as error:
            return answer(item, None, error.reason)
        known = tuple(row for row in rows if row is not None)
        if len(known) < len(rows):
            return answer(item, None, NO_LOGPROBS)
        return answer(item, known)

    return choose


def lettered_chat(item: ChoiceItem, turn: int) -> tuple[Chat, list[int]]:
    """(the chat with the options under letters, the options' indices in the order of letters)."""
    order = [(turn + index) % len(item.options) for index in range(len(item.options))]
    lines = [
        # a later line of an option cannot begin with a letter of its own
        f"({letter}) " + "\n    ".join(item.options[index].strip().splitlines())
        for letter, index in zip(ascii_uppercase, order, strict=False)
    ]
    question = item.chat[-1].content
    content = fill_in(LETTERED, question=question, options="\n".join(lines))
    return (*item.chat[:-1], Message(role="user", content=content)), order


async def _option_logprobs(lm: LM, item: ChoiceItem, turn: int) -> tuple[float, ...] | None:
    """Log-probabilities in the order of the item's options; None if one is unknown."""
    if item.form == "letters":
        chat, order = lettered_chat(item, turn)
        letters = ascii_uppercase[: len(order)]
        scores = await lm.choice_logprobs(chat, tuple(letters), prefill=LETTER)
    else:
        order = list(range(len(item.options)))
        scores = await lm.choice_logprobs(item.chat, item.options, prefill=item.prefill)
    if scores is None or not all(map(math.isfinite, scores)):
        return None
    by_option = dict(zip(order, scores, strict=True))
    return tuple(by_option[index] for index in range(len(order)))
