"""Whether a later revision undoes what an earlier one had mended: every drawn principle against every round.

Entry (k, i) is P(the revision of round i is better than the first reply, by principle k), asked in both orders; the first reply
itself stands at one half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from cai.async_map import gather
from cai.constitution.schema import CompareExample, Principle
from cai.generate.label import compare
from cai.lm.base import LM
from cai.records import Chat, Pair, Round

SLACK = 0.1
"""A probability may fall by so much before a revision counts as falling back: judges are not exact."""
Matrix = dict[str, tuple[float | None, ...]]
"""Principle id -> one probability per round; None: the judge named no option, or there was nothing to compare."""


async def matrix(
    judge: LM,
    shots: tuple[CompareExample, ...],
    chat: Chat,
    initial: str,
    rounds: Sequence[Round],
    principles: Sequence[Principle],
) -> Matrix:
    """Ask `judge` about each round's revision by each principle that a round drew and that has a comparison."""
    drawn = [p for p in principles if p.compare and p.id in {made.principle for made in rounds}]

    async def entry(principle: Principle, revision: str) -> float | None:
        if not revision or not initial or revision == initial:
            return None
        return (await compare(judge, shots, Pair(source="", chat=chat, first=revision, second=initial), principle)).p_first

    cells = [(p, made.revision) for p in drawn for made in rounds]
    found = await gather([entry(principle, revision) for principle, revision in cells])
    return {p.id: tuple(found[i * len(rounds) : (i + 1) * len(rounds)]) for i, p in enumerate(drawn)}


def falls_back(found: Mapping[str, Sequence[float | None]], number: int) -> str | None:
    """The principle that an earlier revision satisfied better than this one, beyond doubt and slack; None: there is none."""
    for principle, row in found.items():
        here, before = row[number], [p for p in row[:number] if p is not None]
        if here is not None and before and max(before) > 0.5 and here < max(before) - SLACK:
            return principle
    return None


def standing(found: Mapping[str, Sequence[float | None]], number: int) -> float:
    """Mean probability of a round over the principles; one half where nothing is known."""
    known = [p for row in found.values() if (p := row[number]) is not None]
    return fmean(known) if known else 0.5
