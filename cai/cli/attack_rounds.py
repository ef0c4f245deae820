"""The rounds of an attack on a file, with their progress on standard error."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cai.records import ScoredReply

if TYPE_CHECKING:
    from cai.attacks.plan import AttackPlan
    from cai.attacks.rounds import Step
    from cai.lm import LM


def make_attacks(
    file: Path, plan: AttackPlan, step: Step, models: Sequence[LM]
) -> list[ScoredReply]:
    """The rows of all rounds; a round that was cut by a kill is completed first.

    Args:
        models: the target, and what else the step calls; they are closed at the end.
    """
    from cai import store
    from cai.attacks.rounds import make_again, make_rounds, unanswered_turns
    from cai.progress import progress_bars

    store.truncate_torn_line(file)
    with progress_bars() as progress:
        bar = progress("attack")

        async def work() -> None:
            width = models[0].max_concurrency
            try:
                if again := unanswered_turns(file, plan):
                    print(f"attack: {len(again)} unanswered rows are asked again", file=sys.stderr)
                    await make_again(file, again, step, width)
                await make_rounds(file, plan, step, width, bar)
            finally:
                for lm in models:
                    await lm.aclose()

        asyncio.run(work())
    return [row for row in store.read_rows(file, ScoredReply) if row.draw < plan.budget]
