"""The rounds of an attack on a file: each made once, and a turn without an answer tried again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from cai import store
from cai.async_map import map_rows
from cai.attacks.plan import (
    ROUND,
    AttackPlan,
    AttackTurn,
    conversations,
    turn_id,
    turns_to_make,
)
from cai.generate.unanswered import ask_again, unanswered_sources
from cai.progress import Progress
from cai.records import ScoredReply

Step = Callable[[AttackTurn], Awaitable[ScoredReply]]


async def make_rounds(
    file: Path, plan: AttackPlan, step: Step, width: int, progress: Progress
) -> None:
    """The rows of all rounds; a round that was cut by a kill is completed first.

    Args:
        width: attacks at once.
    """
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


def unanswered_turns(file: Path, plan: AttackPlan) -> list[AttackTurn]:
    """The turns without an answer for now; each is the last of its attack."""
    unanswered = unanswered_sources(file, ScoredReply, turn_id)
    return [
        AttackTurn(plan.attack_of(turns[-1]), len(turns), turns[-2] if len(turns) > 1 else None)
        for turns in _conversations(file).values()
        if turn_id(turns[-1]) in unanswered
    ]


async def make_again(file: Path, turns: list[AttackTurn], step: Step, width: int) -> None:
    """New tries of these turns, in place of their rows."""
    await ask_again(file, turns, step, ScoredReply, source=turn_id, max_concurrency=width)


def _conversations(file: Path) -> dict[int, list[ScoredReply]]:
    return conversations(store.read_rows(file, ScoredReply)) if file.exists() else {}
