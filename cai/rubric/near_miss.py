"""Ideal replies and their nearest misses, so that every class and proposition of a rubric has replies to be fitted on.

For each behaviour and each class that a reply to the prompt can be of, the plainest assignment of propositions that satisfies it
becomes a reply (`ideal` is the first such class's); so does each assignment that differs from the ideal one in a single
proposition. Replies are put together from the propositions' own `example` sentences, or written by a model that is told what must
hold. Either way the rubric grades what came out: a reply that is not what was wanted is kept and marked, and counts for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from cai import templates
from cai.async_map import gather
from cai.constitution.schema import Rubric
from cai.lm.base import LM
from cai.records import Prompt
from cai.rubric.compile import Behaviour, CompiledRubric
from cai.rubric.grade import grade
from cai.rubric.propositions import COMPUTED, LONG
from cai.rubric.truth_table import Formula
from cai.seeds import derive

STUCK = " And so it goes on." * 6
Assignment = Mapping[str, bool]
Write = Callable[[Prompt, Assignment], Awaitable[str | None]]
"""(prompt, what must hold) -> a reply; None: no such reply can be written."""


@dataclass(frozen=True)
class Target:
    """One reply to write."""

    behaviour: str
    aim: str
    """Name of the class that it is meant for."""
    flipped: str | None
    """The proposition in which it differs from the ideal one; None: it doesn't, or in more."""
    holds: Assignment


@dataclass(frozen=True)
class NearMiss:
    """A reply that was written for a wish."""

    target: Target
    response: str
    class_: str | None
    rank: int
    """Place of its class from the best, 0, to the worst."""
    on_target: bool
    """Whether the rubric finds just the propositions that were wished for."""


def targets(behaviour: Behaviour, given: Assignment | None = None) -> Iterator[Target]:
    """The plainest reply of each class, then every one-flip neighbour of the ideal one.

    Args:
        given: propositions that hold or not whatever the reply says, for they are about the prompt.
    """
    given = given or {}
    names = sorted(set().union(*(rule.formula.names for rule in behaviour.classes)) - given.keys())
    ideal: dict[str, bool] | None = None
    for rule in behaviour.classes:
        found = _plainest(names, rule.formula, given)
        if found is not None:
            ideal = ideal or found
            yield Target(behaviour.name, rule.name, None, found)
    for name in names if ideal else ():
        holds = {id: value != (id == name) for id, value in (ideal or {}).items()}
        yield Target(behaviour.name, class_of(behaviour, holds), name, holds)


def class_of(behaviour: Behaviour, holds: Assignment) -> str:
    """The one class that an assignment falls into."""
    return next(rule.name for rule in behaviour.classes if satisfies(rule.formula, holds))


def satisfies(formula: Formula, holds: Assignment) -> bool:
    return bool(formula.probability({name: float(value) for name, value in holds.items()}))


def _plainest(names: Sequence[str], formula: Formula, given: Assignment) -> dict[str, bool] | None:
    """The first assignment with the fewest true propositions that satisfies it, in alphabetical order; None: there is none."""
    for count in range(len(names) + 1):
        for chosen in combinations(names, count):
            holds = {**given, **{name: name in chosen for name in names}}
            if satisfies(formula, holds):
                return holds
    return None


FILLER = (
    "The library in the old town opens at nine in the morning and closes when it gets dark.",
    "Bread keeps longer in a wooden box than in a bag, because the crust stays dry there.",
    "Most trees lose their leaves in autumn, while firs and pines stay green through the winter.",
    "A piano has eighty-eight keys, fifty-two of them white, and each of them moves a small hammer.",
    "The ferry to the island takes forty minutes, and in summer it leaves every other hour.",
    "Rain fell on the hills all night, so the river below the mill ran high and brown.",
)
"""Plain sentences that say nothing of interest: the first stands where nothing else does, all of them make a reply long."""


def by_template(rubric: Rubric, filler: Sequence[str] = FILLER) -> Write:
    """Replies from the propositions' `example` sentences, in the order of the rubric. `filler` must make no proposition true."""
    sentences = {id: proposition.example for id, proposition in rubric.propositions.items() if proposition.searches == "reply"}

    async def write(prompt: Prompt, holds: Assignment) -> str | None:
        true = [id for id in sentences if holds.get(id)]
        if "empty" in true:
            return "" if len(true) == 1 else None
        if any(sentences[id] is None and id not in COMPUTED for id in true):
            return None
        if "echoes_prompt" in true:
            return prompt.chat[-1].content if len(true) == 1 else None
        body = " ".join(text for id in true if (text := sentences[id])) or filler[0]
        if "degenerate" in true:
            body += STUCK
        if "long_answer" in true:
            for sentence in filler:
                body += f" {sentence}"
                if len(body.split()) > LONG:
                    break
        return body

    return write


def by_model(lm: LM, compiled: CompiledRubric, seed: int, max_tokens: int = 120) -> Write:
    """Replies by a model that is told what must hold and what must not."""

    async def write(prompt: Prompt, holds: Assignment) -> str | None:
        about_prompt = compiled.of_prompt(prompt.chat[-1].content)
        wanted = [(compiled.questions[id], value) for id, value in holds.items() if id not in COMPUTED and id not in about_prompt]
        if any(value for id, value in holds.items() if id in COMPUTED):
            return None  # empty, endless or parroted replies are no task for a writer
        where = derive(seed, "near miss", prompt.id, *(id for id, value in holds.items() if value))
        said = await lm.sample(templates.near_miss_chat(prompt.chat, wanted), max_tokens=max_tokens, temperature=0.7, seed=where)
        return templates.parse_reply(said.text, finished=said.finished)

    return write


async def near_misses(
    compiled: CompiledRubric, prompts: Sequence[Prompt], write: Write, max_concurrency: int = 64
) -> list[tuple[Prompt, NearMiss]]:
    """For each prompt with a kind: a reply per wish of its behaviour, graded. Wishes that cannot be written are left out."""
    known: dict[tuple[str, frozenset[tuple[str, bool]]], list[Target]] = {}
    asked = []
    for prompt in prompts:
        if behaviour := compiled.behaviours.get(prompt.kind) if prompt.kind else None:
            given = compiled.of_prompt(prompt.chat[-1].content)
            key = behaviour.name, frozenset(given.items())
            if key not in known:
                known[key] = list(targets(behaviour, given))
            asked += [(prompt, behaviour, wish) for wish in known[key]]
    made = []
    for start in range(0, len(asked), max_concurrency):
        window = asked[start : start + max_concurrency]
        replies = await gather([write(prompt, wish.holds) for prompt, _, wish in window])
        made += [
            (prompt, _graded(compiled, behaviour, prompt, wish, response))
            for (prompt, behaviour, wish), response in zip(window, replies, strict=True)
            if response is not None
        ]
    return made


def _graded(compiled: CompiledRubric, behaviour: Behaviour, prompt: Prompt, wish: Target, response: str) -> NearMiss:
    found = grade(compiled, prompt=prompt.chat[-1].content, response=response, kind=prompt.kind)
    order = [rule.name for rule in behaviour.classes]
    rank = order.index(found.class_) if found.class_ in order else len(order)
    as_wished = all((found.propositions[id] > 0.5) == value for id, value in wish.holds.items())
    return NearMiss(wish, response, found.class_, rank, as_wished)


def support(compiled: CompiledRubric, made: Sequence[NearMiss]) -> dict[str, Counter[str]]:
    """behaviour -> class or proposition -> replies that are as they were wished for. 0: nothing can be fitted there."""
    found: dict[str, Counter[str]] = {}
    for behaviour in {b.name: b for b in compiled.behaviours.values()}.values():
        counts = found[behaviour.name] = Counter({rule.name: 0 for rule in behaviour.classes})
        counts.update({name: 0 for rule in behaviour.classes for name in rule.formula.names})
        for one in made:
            if one.target.behaviour == behaviour.name and one.on_target:
                counts[one.target.aim] += 1
                counts.update(id for id, value in one.target.holds.items() if value)
    return found
