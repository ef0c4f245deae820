"""AI preference labels by principle, as probabilities from both orders of the replies.

Follows arXiv:2212.08073, section 4.1, and arXiv:2309.00267.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from cai import templates
from cai.async_map import gather
from cai.constitution.schema import CompareExample, Constitution, Principle
from cai.errors import UnansweredError
from cai.generate.label_config import SCORES, LabelConfig
from cai.generate.reply_scores import refuse_unsuitable, score_vote
from cai.lm.base import LM
from cai.modeling.thoughts import CUT_THOUGHT, split_thoughts
from cai.probability import sigmoid
from cai.records import Chat, Kind, Pair, Preference, Vote
from cai.seeds import derive, rng
from cai.store import digest

CATEGORY_WEIGHT = 4.0
"""Factor on the weight of principles of the prompt's own category."""
NO_PRINCIPLE = "no principle with a comparison applies"

# ---- principles and examples ----


def comparison_principles(constitution: Constitution) -> list[Principle]:
    """The principles by which pairs may be compared."""
    return [p for p in constitution.principles if p.compare]


def pair_address(pair: Pair) -> str:
    """The address of a pair's random draws.

    It follows from the chat and the two texts, whatever their order and the pair's other fields.
    """
    turns = [f"{message.role}:{message.content}" for message in pair.chat]
    return digest(*turns, *sorted((pair.first, pair.second)))


def category_weight(principle: Principle, category: str | None) -> float:
    """The principle's weight for prompts of `category`."""
    return principle.weight * (CATEGORY_WEIGHT if principle.category == category else 1.0)


def draw_principles(
    principles: Sequence[Principle],
    kind: Kind | None,
    count: int,
    seed: int,
    pair: Pair,
    category: str | None = None,
) -> list[Principle]:
    """`count` different principles that apply to `kind`, drawn by weight; fewer if there are fewer.

    A principle of the prompt's own category weighs four times as much, as in revision.
    """
    remaining = [p for p in principles if kind is None or kind in p.applies_to]
    stream = rng(seed, "label", pair_address(pair))
    drawn: list[Principle] = []
    while remaining and len(drawn) < count:
        weights = [category_weight(p, category) for p in remaining]
        principle = stream.choices(remaining, weights)[0]
        drawn.append(principle)
        remaining.remove(principle)
    return drawn


def principles_for(
    constitution: Constitution,
    config: LabelConfig,
    kind: Kind | None,
    seed: int,
    pair: Pair,
    category: str | None,
) -> Sequence[Principle | None]:
    """The principles by which a pair is compared; [None] if the config has its own question."""
    if config.ask != "principle":
        return [None]
    principles = comparison_principles(constitution)
    return draw_principles(principles, kind, config.principles, seed, pair, category)


def balanced_examples(
    examples: tuple[CompareExample, ...], shots: int | None
) -> tuple[CompareExample, ...]:
    """`shots` of the examples in their order, with as many answers A as B where possible.

    An odd number has one more of the first example's answer.
    """
    if shots is None or shots >= len(examples):
        return examples
    remaining: dict[str, list[int]] = {"A": [], "B": []}
    for index, example in enumerate(examples):
        remaining[example.answer].append(index)
    chosen: list[int] = []
    answer = str(examples[0].answer)
    while len(chosen) < shots:
        other = "B" if answer == "A" else "A"
        indices = remaining[answer] or remaining[other]
        chosen.append(indices.pop(0))
        answer = other
    return tuple(examples[index] for index in sorted(chosen))


# ---- comparison ----

OptionLogprobs = tuple[float, float]
"""Log-probabilities of the options (A, B), in nats."""


class _Verdicts(NamedTuple):
    """The judge's answers about one order of the replies."""

    logprobs: list[OptionLogprobs]
    """One entry per rationale."""
    rationale: str | None
    """The first rationale; None: without chain of thought."""


def p_first(logprobs: Sequence[float], logprobs_swapped: Sequence[float]) -> float:
    """P(first is better than second) from the log-probabilities of (A, B) in both orders.

        sigma( ((a - b) - (a' - b')) / 2 )

    With the second reply shown as (A), a' - b' is the log-odds of the second. A position bias of c
    nats adds c to both differences and cancels, exactly and not just on average.
    """
    a, b = logprobs
    a_swapped, b_swapped = logprobs_swapped
    return sigmoid(((a - b) - (a_swapped - b_swapped)) / 2)


async def compare(
    judge: LM,
    shots: tuple[CompareExample, ...],
    pair: Pair,
    principle: Principle | None,
    config: LabelConfig | None = None,
    seed: int = 0,
) -> Vote:
    """The judge's vote on a pair by one principle, from both orders of the replies.

    Args:
        principle: None: the question that `config.ask` names.

    Raises:
        UnansweredError: one of the calls has no answer.
    """
    config = config or LabelConfig()
    question = (principle.compare if principle else None) or templates.COMPARE_QUESTIONS[config.ask]
    verdicts, swapped = await gather(
        [
            _judge_order(judge, shots, ordered, question, config, seed)
            for ordered in (pair, pair.swap())
        ]
    )
    p = None
    if verdicts is not None and swapped is not None:
        p = _clamped(fmean(map(p_first, verdicts.logprobs, swapped.logprobs)), config)
    return Vote(
        principle=principle.id if principle else config.ask,
        logprobs=None if verdicts is None else _mean(verdicts.logprobs),
        logprobs_swapped=None if swapped is None else _mean(swapped.logprobs),
        rationale=None if verdicts is None else verdicts.rationale,
        rationale_swapped=None if swapped is None else swapped.rationale,
        p_first=p,
    )


def _clamped(p: float, config: LabelConfig) -> float:
    low, high = config.clamp or (0.0, 1.0)
    return min(max(p, low), high)


async def _judge_order(
    judge: LM,
    shots: tuple[CompareExample, ...],
    pair: Pair,
    question: str,
    config: LabelConfig,
    seed: int,
) -> _Verdicts | None:
    """The verdicts with the first reply shown as (A); None if one names no option."""
    if not config.cot:
        chat = templates.compare_chat(shots, pair.chat, pair.first, pair.second, question)
        logprobs = await _option_logprobs(judge, chat)
        return None if logprobs is None else _Verdicts([logprobs], None)
    think = templates.think_chat(shots, pair.chat, pair.first, pair.second, question)

    async def reason(number: int) -> tuple[OptionLogprobs | None, str]:
        rationale = await judge.sample(
            think,
            max_tokens=config.rationale_tokens,
            temperature=config.rationale_temperature,
            seed=derive(seed, "rationale", pair_address(pair), question, number),
        )
        decide = templates.decide_chat(think, rationale.text)
        return await _option_logprobs(judge, decide), rationale.text

    results = await gather([reason(number) for number in range(config.rationales)])
    answers = [logprobs for logprobs, _ in results if logprobs is not None]
    return _Verdicts(answers, results[0][1]) if len(answers) == len(results) else None


async def _option_logprobs(judge: LM, chat: Chat) -> OptionLogprobs | None:
    logprobs = await judge.choice_logprobs(chat, templates.OPTIONS, prefill=templates.VERDICT)
    if logprobs is None or not all(map(math.isfinite, logprobs)):
        return None
    return logprobs[0], logprobs[1]


def _mean(logprobs: Sequence[OptionLogprobs]) -> OptionLogprobs:
    return fmean(a for a, _ in logprobs), fmean(b for _, b in logprobs)


# ---- the step ----


def judged_pair(pair: Pair) -> Pair:
    """The pair as it is judged: without thoughts, and `unscored` where there is nothing to judge.

    A label is filed under the id of the row itself, as it was given.
    """
    if pair.unscored is not None:
        return pair
    splits = split_thoughts(pair.first), split_thoughts(pair.second)
    first, second = (split.text for split in splits)
    reason = None
    if any(split.lacks_reply for split in splits):
        reason = CUT_THOUGHT
    elif first.strip() == second.strip():
        reason = "the two replies are the same"
    elif (first, second) == (pair.first, pair.second):
        return pair
    return pair.model_copy(update={"first": first, "second": second, "unscored": reason})


def labeller(
    constitution: Constitution,
    judge: LM,
    config: LabelConfig,
    seed: int,
    kind_and_category: Callable[[Pair], tuple[Kind | None, str | None]],
) -> Callable[[Pair], Awaitable[Preference]]:
    """The step that makes one `Preference` from one `Pair`.

    Args:
        kind_and_category: those of the pair's prompt.

    Raises:
        UsageError: an endpoint cannot judge so.
    """
    shots = balanced_examples(constitution.examples.compare, config.shots)
    refuse_unsuitable(judge, config)

    async def vote(pair: Pair, principle: Principle | None) -> Vote:
        if config.ask not in SCORES:
            return await compare(judge, shots, pair, principle, config, seed)
        scored = await score_vote(judge, pair, config)
        p = None if scored.p_first is None else _clamped(scored.p_first, config)
        return scored.model_copy(update={"p_first": p})

    def unscored(pair: Pair, reason: str, votes: Sequence[Vote] = ()) -> Preference:
        return Preference(source=pair.id, p_first=None, votes=tuple(votes), unscored=reason)

    async def label(pair: Pair) -> Preference:
        judged = judged_pair(pair)
        if judged.unscored is not None:
            return unscored(pair, judged.unscored)
        kind, category = kind_and_category(pair)
        principles = principles_for(constitution, config, kind, seed, judged, category)
        if not principles:
            return unscored(pair, NO_PRINCIPLE)
        try:  # all or none: a mean over fewer principles would be another label
            votes = await gather([vote(judged, principle) for principle in principles])
        except UnansweredError as error:
            return unscored(pair, error.reason)
        probabilities = [vote.p_first for vote in votes if vote.p_first is not None]
        if not probabilities:
            return unscored(pair, "the judge named none of the options", votes)
        mean = sum(probabilities) / len(probabilities)
        return Preference(source=pair.id, p_first=mean, votes=tuple(votes))

    return label
