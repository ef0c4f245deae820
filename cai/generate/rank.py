"""Group rewards: a judge compares the replies of one prompt with each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import combinations

from cai.async_map import gather, run_sync
from cai.constitution import Constitution
from cai.generate.label import NO_PRINCIPLE, labeller
from cai.generate.label_config import LabelConfig
from cai.lm.base import LM
from cai.records import Pair, Preference, Prompt

Rank = Callable[[Prompt, Sequence[str]], list[float | None]]
"""(prompt, its replies) -> each reply's share of won comparisons in [0, 1]; None: unknown. Empty:
replies to this prompt are not compared."""


async def rank_replies(
    label: Callable[[Pair], Awaitable[Preference]], prompt: Prompt, replies: Sequence[str]
) -> list[float | None]:
    """Each reply's mean probability of being better than another reply to the prompt.

        r_i = 1 / (K - 1)  sum_{j != i} P(i is better than j)

    The mean of r over a group is 1/2 where all are known. Each pair is judged once, by `label`,
    which shows it in both orders. Replies with the same text are equal, without a call.

    Args:
        label: the judge's step, for example `labeller`.
        prompt: the prompt of all replies.
        replies: K replies.

    Returns:
        A share for each reply. None: one of its comparisons has no verdict, or there is no other
        reply. A mean over the other comparisons would be another reward: it depends on which
        opponents are left. Empty: no principle of the constitution compares replies to the prompt.
    """
    texts = list(dict.fromkeys(reply.strip() for reply in replies))
    pairs = list(combinations(range(len(texts)), 2))
    verdicts = await gather(
        [
            label(Pair(source=prompt.id, chat=prompt.chat, first=texts[i], second=texts[j]))
            for i, j in pairs
        ]
    )
    if verdicts and all(verdict.unscored == NO_PRINCIPLE for verdict in verdicts):
        return []
    better: dict[tuple[int, int], float | None] = {}
    for (i, j), verdict in zip(pairs, verdicts, strict=True):
        better[i, j] = verdict.p_first
        better[j, i] = None if verdict.p_first is None else 1 - verdict.p_first
    numbers = [texts.index(reply.strip()) for reply in replies]
    return [_share(row, numbers, better) for row in range(len(numbers))]


def _share(
    row: int, numbers: Sequence[int], better: dict[tuple[int, int], float | None]
) -> float | None:
    others = [number for other, number in enumerate(numbers) if other != row]
    shares = [0.5 if x == numbers[row] else better[numbers[row], x] for x in others]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known and len(known) == len(shares) else None


def ranker(constitution: Constitution, judge: LM, config: LabelConfig, seed: int) -> Rank:
    """`rank_replies` by the constitution's principles, as a plain function."""

    def rank(prompt: Prompt, replies: Sequence[str]) -> list[float | None]:
        kind_and_category = (prompt.kind, prompt.category)
        label = labeller(constitution, judge, config, seed, lambda pair: kind_and_category)

        async def rank_all() -> list[float | None]:
            try:
                return await rank_replies(label, prompt, replies)
            finally:
                await judge.aclose()

        return run_sync(rank_all())

    return rank
