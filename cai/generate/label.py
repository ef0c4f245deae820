"""AI preference labels by principle, in both orders, as probabilities (arXiv:2212.08073 section 4.1; arXiv:2309.00267)."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

from pydantic import BaseModel, ConfigDict, Field

from cai import templates
from cai.constitution.schema import CompareExample, Constitution, Principle
from cai.errors import UnansweredError
from cai.lm.base import LM
from cai.records import Kind, Pair, Preference, Vote
from cai.seeds import rng
from cai.store import together


class LabelConfig(BaseModel):
    """How pairs are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    principles: int = Field(1, ge=1)
    """Principles drawn per pair, without repetition; their probabilities are averaged (the ensemble)."""


def comparing(constitution: Constitution) -> list[Principle]:
    """The principles that pairs may be judged by."""
    return [p for p in constitution.principles if p.compare]


def draw_principles(principles: Sequence[Principle], kind: Kind | None, count: int, seed: int, pair_id: str) -> list[Principle]:
    """`count` different principles that apply to `kind`, by weight; fewer when there are not as many."""
    left = [p for p in principles if kind is None or kind in p.applies_to]
    stream = rng(seed, "label", pair_id)
    drawn: list[Principle] = []
    while left and len(drawn) < count:
        pick = stream.choices(left, [p.weight for p in left])[0]
        drawn.append(pick)
        left.remove(pick)
    return drawn


def p_first(logprobs: Sequence[float], logprobs_swapped: Sequence[float]) -> float:
    """P(first beats second) from the options' log-probabilities (A, B) in both orders.

        sigma( ((a - b) - (a' - b')) / 2 )

    With the second reply shown as (A), a' - b' is the log-odds for the second. A liking of c nats for a place adds c to both
    differences and cancels, exactly and not just on average.
    """
    (a, b), (a_swapped, b_swapped) = logprobs, logprobs_swapped
    odds = ((a - b) - (a_swapped - b_swapped)) / 2
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


async def compare(judge: LM, shots: tuple[CompareExample, ...], pair: Pair, principle: Principle) -> Vote:
    """What `judge` says of a pair by one principle, asked in both orders.

    Raises:
        UnansweredError: one of the two calls has no answer.
    """

    async def ask(pair: Pair) -> list[float] | None:
        chat = templates.compare_chat(shots, pair.chat, pair.first, pair.second, principle.compare or templates.GENERAL_COMPARE)
        found = await judge.choice_logprobs(chat, templates.OPTIONS, prefill=templates.VERDICT)
        return found if found is not None and all(map(math.isfinite, found)) else None

    there, back = await together([ask(pair), ask(pair.swap())])
    return Vote(
        principle=principle.id,
        logprobs=None if there is None else (there[0], there[1]),
        logprobs_swapped=None if back is None else (back[0], back[1]),
        p_first=None if there is None or back is None else p_first(there, back),
    )


def labeller(
    constitution: Constitution, judge: LM, config: LabelConfig, seed: int, kind_of: Callable[[Pair], Kind | None]
) -> Callable[[Pair], Awaitable[Preference]]:
    """The step that makes one `Preference` from one `Pair`."""
    principles = comparing(constitution)
    shots = constitution.examples.compare

    async def label(pair: Pair) -> Preference:
        if pair.unscored is not None:
            return Preference(source=pair.id, p_first=None, unscored=pair.unscored)
        if pair.first.strip() == pair.second.strip():
            return Preference(source=pair.id, p_first=None, unscored="the two replies are the same")
        drawn = draw_principles(principles, kind_of(pair), config.principles, seed, pair.id)
        if not drawn:
            return Preference(source=pair.id, p_first=None, unscored="no principle with a comparison applies")
        try:  # all of them or none: a mean over fewer principles would be another label
            votes = await together([compare(judge, shots, pair, principle) for principle in drawn])
        except UnansweredError as error:
            return Preference(source=pair.id, p_first=None, unscored=f"no answer: {error}")
        said = [v.p_first for v in votes if v.p_first is not None]
        if not said:
            return Preference(source=pair.id, p_first=None, votes=tuple(votes), unscored="the judge named none of the options")
        return Preference(source=pair.id, p_first=sum(said) / len(said), votes=tuple(votes))

    return label
