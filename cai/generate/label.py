"""AI preference labels by principle, in both orders, as probabilities (arXiv:2212.08073 section 4.1; arXiv:2309.00267)."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from statistics import fmean
from typing import Any, Literal

from pydantic import Field, model_validator

from cai import templates
from cai.async_map import gather
from cai.constitution.schema import CompareExample, Constitution, Principle
from cai.errors import UnansweredError
from cai.lm.base import LM
from cai.probability import sigmoid
from cai.records import Chat, FrozenModel, Kind, Pair, Preference, Vote
from cai.seeds import derive, rng
from cai.store import digest

PRESETS: dict[str, dict[str, Any]] = {
    "cai": {"ask": "principle", "cot": False},
    "cai-cot": {"ask": "principle", "cot": True, "clamp": (0.4, 0.6)},
    "rlaif": {"ask": "detailed", "cot": True, "shots": 0},
    "direct": {"ask": "plain", "cot": False, "shots": 0},
}
"""Published recipes by name: arXiv:2212.08073 without and with chain of thought, the detailed instruction with chain of thought
of arXiv:2309.00267 (no examples), and a bare question. What a run says beside the name counts more than the recipe."""


class LabelConfig(FrozenModel):
    """How pairs are compared."""

    preset: Literal["cai", "cai-cot", "rlaif", "direct"] | None = None
    """A published recipe; the keys below change it."""
    ask: Literal["principle", "detailed", "plain"] = "principle"
    """By principles of the constitution; by one long instruction about what makes a reply good; or just which is better."""
    principles: int = Field(1, ge=1)
    """Principles drawn per pair, without repetition; their probabilities are averaged (the ensemble)."""
    shots: int | None = Field(None, ge=0)
    """Worked examples before the question, as many with A as with B as its answer; None: all there are."""
    cot: bool = False
    """Have the judge think first, and read the options after its own words."""
    rationales: int = Field(1, ge=1)
    """Thoughts per order, whose verdicts are averaged (self-consistency; arXiv:2309.00267 finds that more are no better)."""
    rationale_tokens: int = Field(120, ge=1)
    rationale_temperature: float = Field(0.7, ge=0)
    clamp: tuple[float, float] | None = None
    """Where each principle's probability is cut: after thinking, judges are too sure of themselves."""

    @model_validator(mode="before")
    @classmethod
    def _by_preset(cls, data: Any) -> Any:
        return PRESETS.get(data.get("preset") or "", {}) | data if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _sound(self) -> LabelConfig:
        if self.clamp is not None and not 0 <= self.clamp[0] <= 0.5 <= self.clamp[1] <= 1:
            raise ValueError(f"clamp must be a range around one half, such as [0.4, 0.6]; it is {list(self.clamp)}")
        if self.rationales > 1 and not self.cot:
            raise ValueError("rationales are thoughts: they need cot: true")
        return self


def comparing(constitution: Constitution) -> list[Principle]:
    """The principles that pairs may be judged by."""
    return [p for p in constitution.principles if p.compare]


def address(pair: Pair) -> str:
    """What a pair's draws follow from: its texts, in whichever order, however they were drawn and wherever the pair lies."""
    return digest(*(f"{m.role}:{m.content}" for m in pair.chat), *sorted((pair.first, pair.second)))


def draw_principles(
    principles: Sequence[Principle], kind: Kind | None, count: int, seed: int, pair: Pair, category: str | None = None
) -> list[Principle]:
    """`count` different principles that apply to `kind`, by weight; fewer when there are not as many.

    A principle of the prompt's own category weighs four times as much, as in revision.
    """
    left = [p for p in principles if kind is None or kind in p.applies_to]
    stream = rng(seed, "label", address(pair))
    drawn: list[Principle] = []
    while left and len(drawn) < count:
        pick = stream.choices(left, [p.weight * (4.0 if p.category == category else 1.0) for p in left])[0]
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
    return sigmoid(odds)


def balanced(examples: tuple[CompareExample, ...], shots: int | None) -> tuple[CompareExample, ...]:
    """`shots` of the examples, in their order, with as many A as B (one more of the first's answer when it is odd)."""
    if shots is None or shots >= len(examples):
        return examples
    left = {answer: [e for e in examples if e.answer == answer] for answer in ("A", "B")}
    chosen: list[CompareExample] = []
    turn = examples[0].answer
    while len(chosen) < shots:
        own = left[turn] or left["B" if turn == "A" else "A"]
        chosen.append(own.pop(0))
        turn = "B" if turn == "A" else "A"
    return tuple(e for e in examples if any(e is c for c in chosen))


async def compare(
    judge: LM,
    shots: tuple[CompareExample, ...],
    pair: Pair,
    principle: Principle | None,
    config: LabelConfig | None = None,
    seed: int = 0,
) -> Vote:
    """What `judge` says of a pair by one principle (None: by the config's own question), asked in both orders.

    Raises:
        UnansweredError: one of the calls has no answer.
    """
    config = config or LabelConfig()
    question = (principle.compare if principle else None) or templates.QUESTIONS[config.ask]
    there, back = await gather([_read(judge, shots, p, question, config, seed) for p in (pair, pair.swap())])
    p = None
    if there is not None and back is not None:
        p = fmean(p_first(a, b) for a, b in zip(there[0], back[0], strict=True))
        p = p if config.clamp is None else min(max(p, config.clamp[0]), config.clamp[1])
    return Vote(
        principle=principle.id if principle else config.ask,
        logprobs=None if there is None else _mean(there[0]),
        logprobs_swapped=None if back is None else _mean(back[0]),
        rationale=None if there is None else there[1],
        rationale_swapped=None if back is None else back[1],
        p_first=p,
    )


Reading = tuple[list[tuple[float, float]], str | None]
"""Log-probabilities of (A, B) after each rationale, and the first rationale."""


async def _read(
    judge: LM, shots: tuple[CompareExample, ...], pair: Pair, question: str, config: LabelConfig, seed: int
) -> Reading | None:
    """One order. None: after some rationale the judge named no option."""
    asked = templates.compare_chat(shots, pair.chat, pair.first, pair.second, question)
    if not config.cot:
        found = await _options(judge, asked)
        return None if found is None else ([found], None)
    think = templates.think_chat(shots, pair.chat, pair.first, pair.second, question)

    async def one(number: int) -> tuple[tuple[float, float] | None, str]:
        where = derive(seed, "rationale", address(pair), question, number)
        said = await judge.sample(think, max_tokens=config.rationale_tokens, temperature=config.rationale_temperature, seed=where)
        return await _options(judge, templates.decide_chat(think, said.text)), said.text

    thoughts = await gather([one(number) for number in range(config.rationales)])
    known = [found for found, _ in thoughts if found is not None]
    return (known, thoughts[0][1]) if len(known) == len(thoughts) else None


async def _options(judge: LM, chat: Chat) -> tuple[float, float] | None:
    found = await judge.choice_logprobs(chat, templates.OPTIONS, prefill=templates.VERDICT)
    return (found[0], found[1]) if found is not None and all(map(math.isfinite, found)) else None


def _mean(readings: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return fmean(a for a, _ in readings), fmean(b for _, b in readings)


def asked_by(
    constitution: Constitution, config: LabelConfig, kind: Kind | None, seed: int, pair: Pair, category: str | None
) -> Sequence[Principle | None]:
    """The principles that a pair is judged by; [None] where the config asks its own question."""
    if config.ask != "principle":
        return [None]
    return draw_principles(comparing(constitution), kind, config.principles, seed, pair, category)


def labeller(
    constitution: Constitution,
    judge: LM,
    config: LabelConfig,
    seed: int,
    about: Callable[[Pair], tuple[Kind | None, str | None]],
) -> Callable[[Pair], Awaitable[Preference]]:
    """The step that makes one `Preference` from one `Pair`. `about`: the kind and category of its prompt."""
    shots = balanced(constitution.examples.compare, config.shots)

    async def label(pair: Pair) -> Preference:
        if pair.unscored is not None:
            return Preference(source=pair.id, p_first=None, unscored=pair.unscored)
        if pair.first.strip() == pair.second.strip():
            return Preference(source=pair.id, p_first=None, unscored="the two replies are the same")
        kind, category = about(pair)
        drawn = asked_by(constitution, config, kind, seed, pair, category)
        if not drawn:
            return Preference(source=pair.id, p_first=None, unscored="no principle with a comparison applies")
        try:  # all of them or none: a mean over fewer principles would be another label
            votes = await gather([compare(judge, shots, pair, principle, config, seed) for principle in drawn])
        except UnansweredError as error:
            return Preference(source=pair.id, p_first=None, unscored=f"no answer: {error}")
        said = [v.p_first for v in votes if v.p_first is not None]
        if not said:
            return Preference(source=pair.id, p_first=None, votes=tuple(votes), unscored="the judge named none of the options")
        return Preference(source=pair.id, p_first=sum(said) / len(said), votes=tuple(votes))

    return label
