"""Ideal replies and their near misses: data on which every weight of a rubric can be fitted.

The targets of a behaviour are assignments of its propositions. For each class that a reply to the
prompt can be of, one is the assignment with the fewest true propositions; that of the first class
is the ideal one. The others differ from the ideal one in a single proposition.

Replies are put together from the propositions' `example` sentences, or written by a model from
instructions. Either way the rubric grades them. A reply that missed its target is kept and marked,
and does not count as support.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cai import reply_parsing, templates
from cai.async_map import gather
from cai.constitution.schema import Rubric
from cai.lm.base import LM
from cai.records import Prompt
from cai.rubric.grade import Behaviour, CompiledRubric, grade
from cai.rubric.propositions import COMPUTED_TESTS, LONG_ANSWER_WORDS
from cai.rubric.truth_table import Formula
from cai.seeds import derive

DEGENERATE_SUFFIX = " And so it goes on." * 6
NOTHING_ELSE = frozenset({"comfort_only", "fragment"})
"""Propositions that hold of a reply which says nothing else."""
FILLER = (
    "The library in the old town opens at nine in the morning and closes when it gets dark.",
    "Bread keeps longer in a wooden box than in a bag, because the crust stays dry there.",
    "Most trees lose their leaves in autumn, while firs and pines stay green through the winter.",
    "A piano has eighty-eight keys, fifty-two of them white, "
    "and each of them moves a small hammer.",
    "The ferry to the island takes forty minutes, and in summer it leaves every other hour.",
    "Rain fell on the hills all night, so the river below the mill ran high and brown.",
)
"""Neutral sentences: the first is the reply when no proposition holds, all of them make it long."""

Assignment = Mapping[str, bool]
ReplyWriter = Callable[[Prompt, Assignment], Awaitable[str | None]]
"""(prompt, what must hold) -> a reply; None: no such reply can be written."""


@dataclass(frozen=True)
class Target:
    """The specification of one reply."""

    behaviour: str
    aim: str
    """Name of the class that it falls into."""
    flipped: str | None
    """The one proposition in which it differs from the ideal one; None for a class's own target."""
    holds: Assignment


@dataclass(frozen=True)
class NearMiss:
    """A reply that was written for a target."""

    target: Target
    response: str
    class_: str | None
    rank: int
    """Index of its class from the best, 0, to the worst."""
    on_target: bool
    """Whether the rubric finds exactly the target's propositions."""


def targets(behaviour: Behaviour, given: Assignment | None = None) -> Iterator[Target]:
    """The simplest target of each class, then every one-flip neighbour of the ideal one.

    Args:
        given: propositions about the prompt, which no reply can change.
    """
    given = given or {}
    all_names = set().union(*(rule.formula.names for rule in behaviour.classes))
    names = sorted(all_names - given.keys())
    ideal: dict[str, bool] | None = None
    for rule in behaviour.classes:
        assignment = _simplest(names, rule.formula, given)
        if assignment is not None:
            ideal = ideal or assignment
            yield Target(behaviour.name, rule.name, None, assignment)
    if not ideal:
        return
    for name in names:
        holds = ideal | {name: not ideal[name]}
        yield Target(behaviour.name, class_of(behaviour, holds), name, holds)


def class_of(behaviour: Behaviour, holds: Assignment) -> str:
    """The one class that an assignment falls into."""
    return next(rule.name for rule in behaviour.classes if satisfies(rule.formula, holds))


def satisfies(formula: Formula, holds: Assignment) -> bool:
    return bool(formula.probability({name: float(value) for name, value in holds.items()}))


def _simplest(names: Sequence[str], formula: Formula, given: Assignment) -> dict[str, bool] | None:
    """The satisfying assignment with the fewest true propositions; None: there is none.

    Of several, the first in alphabetical order.
    """
    rows = np.array(formula.satisfying_rows(), dtype=np.int64)
    counts = np.zeros(len(rows), dtype=np.int64)  # of true names that a reply decides
    fits = np.ones(len(rows), dtype=np.bool_)
    for bit, name in enumerate(formula.names):
        column = (rows >> bit & 1).astype(np.bool_)
        if name in given:
            fits &= column == given[name]
        else:
            counts += column
    if not fits.any():
        return None
    simplest = rows[fits & (counts == counts[fits].min())].tolist()
    chosen = min(
        [name for name in names if name in true_names and name not in given]
        for true_names in (_true_names(formula, row) for row in simplest)
    )
    return {**given, **{name: name in chosen for name in names}}


def _true_names(formula: Formula, row: int) -> frozenset[str]:
    return frozenset(name for bit, name in enumerate(formula.names) if row >> bit & 1)


def template_writer(rubric: Rubric, filler: Sequence[str] = FILLER) -> ReplyWriter:
    """A writer that joins the propositions' `example` sentences, in the order of the rubric.

    Args:
        filler: sentences that make no proposition true.
    """
    sentences = {
        id: proposition.example
        for id, proposition in rubric.propositions.items()
        if proposition.searches == "reply"
    }

    async def write(prompt: Prompt, holds: Assignment) -> str | None:
        true_ids = [id for id in sentences if holds.get(id)]
        if "empty" in true_ids:
            return "" if len(true_ids) == 1 else None
        if any(sentences[id] is None and id not in COMPUTED_TESTS for id in true_ids):
            return None
        if "echoes_prompt" in true_ids:
            return prompt.chat[-1].content if len(true_ids) == 1 else None
        if len(true_ids) > 1 and not NOTHING_ELSE.isdisjoint(true_ids):
            return None
        examples = [sentences[id] for id in true_ids]
        body = " ".join(sentence for sentence in examples if sentence) or filler[0]
        if not {"degenerate", "garbled"}.isdisjoint(true_ids):
            body += DEGENERATE_SUFFIX
        return _lengthened(body, filler) if "long_answer" in true_ids else body

    return write


def _lengthened(body: str, filler: Sequence[str]) -> str:
    """`body` with sentences of `filler` appended until it is a long answer."""
    for sentence in filler:
        body += f" {sentence}"
        if len(body.split()) > LONG_ANSWER_WORDS:
            break
    return body


def model_writer(lm: LM, compiled: CompiledRubric, seed: int, max_tokens: int = 120) -> ReplyWriter:
    """A writer that instructs a model: what must hold of the reply, and what must not."""

    async def write(prompt: Prompt, holds: Assignment) -> str | None:
        true_ids = [id for id, value in holds.items() if value]
        if any(id in COMPUTED_TESTS for id in true_ids):
            return None  # a model does not write empty, endless or parroted replies
        about_prompt = compiled.prompt_propositions(prompt.chat[-1].content)
        answers = [
            (compiled.questions[id], value)
            for id, value in holds.items()
            if id not in COMPUTED_TESTS and id not in about_prompt
        ]
        sample = await lm.sample(
            templates.near_miss_chat(prompt.chat, answers),
            max_tokens=max_tokens,
            temperature=0.7,
            seed=derive(seed, "near miss", prompt.id, *true_ids),
        )
        return reply_parsing.parse_reply(sample.text, finished=sample.finished)

    return write


async def near_misses(
    compiled: CompiledRubric,
    prompts: Sequence[Prompt],
    write: ReplyWriter,
    max_concurrency: int = 64,
) -> list[tuple[Prompt, NearMiss]]:
    """For each prompt with a kind: one graded reply per target of its behaviour.

    Targets for which no reply can be written are left out.
    """
    jobs = list(_jobs(compiled, prompts))
    results = []
    for start in range(0, len(jobs), max_concurrency):
        window = jobs[start : start + max_concurrency]
        responses = await gather([write(prompt, target.holds) for prompt, _, target in window])
        for (prompt, behaviour, target), response in zip(window, responses, strict=True):
            if response is not None:
                near_miss = _grade_near_miss(compiled, behaviour, prompt, target, response)
                results.append((prompt, near_miss))
    return results


def _jobs(
    compiled: CompiledRubric, prompts: Sequence[Prompt]
) -> Iterator[tuple[Prompt, Behaviour, Target]]:
    """Prompts with their targets, which depend on the prompt only by its propositions."""
    cache: dict[tuple[str, frozenset[tuple[str, bool]]], list[Target]] = {}
    for prompt in prompts:
        behaviour = compiled.behaviours.get(prompt.kind) if prompt.kind else None
        if behaviour is None:
            continue
        given = compiled.prompt_propositions(prompt.chat[-1].content)
        key = behaviour.name, frozenset(given.items())
        if key not in cache:
            cache[key] = list(targets(behaviour, given))
        for target in cache[key]:
            yield prompt, behaviour, target


def _grade_near_miss(
    compiled: CompiledRubric, behaviour: Behaviour, prompt: Prompt, target: Target, response: str
) -> NearMiss:
    result = grade(compiled, prompt=prompt.chat[-1].content, response=response, kind=prompt.kind)
    order = [rule.name for rule in behaviour.classes]
    rank = order.index(result.class_) if result.class_ in order else len(order)
    on_target = all((result.propositions[id] > 0.5) == value for id, value in target.holds.items())
    return NearMiss(target, response, result.class_, rank, on_target)


def support(compiled: CompiledRubric, replies: Sequence[NearMiss]) -> dict[str, Counter[str]]:
    """behaviour -> class or proposition -> number of on-target replies.

    A weight with a count of 0 cannot be fitted.
    """
    behaviours = {behaviour.name: behaviour for behaviour in compiled.behaviours.values()}
    result: dict[str, Counter[str]] = {}
    for behaviour in behaviours.values():
        counts = Counter({rule.name: 0 for rule in behaviour.classes})
        counts.update({name: 0 for rule in behaviour.classes for name in rule.formula.names})
        for reply in replies:
            if reply.target.behaviour == behaviour.name and reply.on_target:
                counts[reply.target.aim] += 1
                counts.update(id for id, value in reply.target.holds.items() if value)
        result[behaviour.name] = counts
    return result
