"""The rounds of an attack on a file: made once, and asked again where there was no answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cai.records import ScoredReply

if TYPE_CHECKING:
    from cai.attacks.plan import AttackPlan, AttackTurn
    from cai.lm import LM
    from cai.progress import Progress

Step = Callable[["AttackTurn"], Awaitable[ScoredReply]]


def make_attacks(
    file: Path, plan: AttackPlan, step: Step, models: Sequence[LM]
) -> list[ScoredReply]:
    """The rows of all rounds; a round that was cut by a kill is completed first.

    Args:
        models: the target, and what else the step calls; they are closed at the end.
    """
    from cai import store
    from cai.progress import progress_bars

    store.truncate_torn_line(file)
    with progress_bars() as progress:
        bar = progress("attack")

        async def work() -> None:
            width = models[0].max_concurrency
            try:
                await _ask_again(file, plan, step, width)
                await _make_rounds(file, plan, step, width, bar)
            finally:
                for lm in models:
                    await lm.aclose()

        asyncio.run(work())
    return [row for row in store.read_rows(file, ScoredReply) if row.draw < plan.budget]


async def _make_rounds(
    file: Path, plan: AttackPlan, step: Step, width: int, progress: Progress
) -> None:
    from cai.async_map import map_rows
    from cai.attacks.plan import ROUND, turn_id, turns_to_make

    rows = _conversations(file)
    for start in range(0, plan.budget, ROUND):
        attacks = plan.round(rows, start)
        for turn in range(1, plan.turns + 1):
            items = turns_to_make(attacks, rows, turn)
            if any(turn > len(rows.get(item.attack.number, ())) for item in items):
                await map_rows(
                    file, items, step, ScoredReply, max_concurrency=width, source=turn_id
                )
                rows = _conversations(file)
        progress(min(plan.budget, start + ROUND), plan.budget)


async def _ask_again(file: Path, plan: AttackPlan, step: Step, width: int) -> None:
    """New tries of the turns without an answer for now; each is the last of its attack."""
    from cai.attacks.plan import AttackTurn, turn_id
    from cai.generate.unanswered import ask_again, unanswered_sources

    unanswered = unanswered_sources(file, ScoredReply, turn_id)
    if not unanswered:
        return
    print(f"attack: {len(unanswered)} unanswered rows are asked again", file=sys.stderr)
    items = [
        AttackTurn(plan.attack_of(turns[-1]), len(turns), turns[-2] if len(turns) > 1 else None)
        for turns in _conversations(file).values()
        if turn_id(turns[-1]) in unanswered
    ]
    await ask_again(file, items, step, ScoredReply, source=turn_id, max_concurrency=width)


def _conversations(file: Path) -> dict[int, list[ScoredReply]]:
    from cai import store
    from cai.attacks.plan import conversations

    return conversations(store.read_rows(file, ScoredReply)) if file.exists() else {}
