"""Detection of revisions that undo an earlier improvement: all drawn principles by all rounds.

Entry (k, i) of the matrix is P(the revision of round i is better than the first reply, by
principle k), from both orders. The first reply itself has probability one half.
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
"""Fall of a probability that is still tolerated, because judges are noisy."""
Matrix = dict[str, tuple[float | None, ...]]
"""Principle id -> one probability per round; None: the judge named no option, or there was nothing
to compare."""


async def comparison_matrix(
    judge: LM,
    shots: tuple[CompareExample, ...],
    chat: Chat,
    initial: str,
    rounds: Sequence[Round],
    principles: Sequence[Principle],
) -> Matrix:
    """The judge's comparison of each round's revision with the first reply.

    It uses each principle that was drawn in a round and has a comparison question.
    """
    drawn_ids = {entry.principle for entry in rounds}
    drawn = [p for p in principles if p.compare and p.id in drawn_ids]

    async def probability(principle: Principle, revision: str) -> float | None:
        if not revision or not initial or revision == initial:
            return None
        pair = Pair(source="", chat=chat, first=revision, second=initial)
        return (await compare(judge, shots, pair, principle)).p_first

    cells = [(principle, entry.revision) for principle in drawn for entry in rounds]
    results = await gather([probability(principle, revision) for principle, revision in cells])
    width = len(rounds)
    return {
        principle.id: tuple(results[i * width : (i + 1) * width])
        for i, principle in enumerate(drawn)
    }


def regressed_principle(matrix: Mapping[str, Sequence[float | None]], index: int) -> str | None:
    """The first principle that an earlier revision satisfied clearly better than this one.

    Clearly: the earlier probability is above one half, and higher by more than `SLACK`. None: there
    is no such principle.
    """
    for principle, row in matrix.items():
        current = row[index]
        earlier = [p for p in row[:index] if p is not None]
        if current is None or not earlier:
            continue
        best = max(earlier)
        if best > 0.5 and current < best - SLACK:
            return principle
    return None


def mean_probability(matrix: Mapping[str, Sequence[float | None]], index: int) -> float:
    """Mean probability of a round over the principles; one half if none is known."""
    known = [row[index] for row in matrix.values()]
    values = [p for p in known if p is not None]
    return fmean(values) if values else 0.5
