"""Hallucination in a closed domain, by a proxy: names and numbers that the given text lacks.

    closed_domain.unsupported_rate    share of replies with a name or number that the text lacks
    closed_domain.unsupported_share   mean share of a reply's names and numbers that the text lacks

The text is the context and the question; what counts as a name or number: `cai.graders.support`.
The proxy sees no wrong verb, relation or lower-case claim, and takes a correct name from elsewhere
for an error: it compares models, and says nothing about one reply.
"""

from __future__ import annotations

from collections.abc import Sequence

from cai.evals.means import mean_over_prompts
from cai.graders.base import GradedItem, every_draw
from cai.records import Message, Prompt, Score, ScoredReply


def closed_domain_items(rows: Sequence[tuple[Prompt, str]], draws: int) -> list[GradedItem]:
    """Every (prompt, context), the context before the question unless the prompt has it already."""
    items = []
    for prompt, context in rows:
        *earlier, last = prompt.chat
        content = last.content
        if context.strip() not in content:
            content = f"{context.strip()}\n\n{content}"
        chat = (*earlier, Message(role="user", content=content))
        named = prompt.model_copy(update={"chat": chat})
        items.append(GradedItem(named, chat, facts={"text": content}))
    return every_draw(items, draws)


def closed_domain_scores(rows: Sequence[ScoredReply]) -> list[Score]:
    """The metrics of the module's table. A reply without names and numbers has no share."""
    metric = "closed_domain.unsupported_share"
    return [
        *mean_over_prompts("closed_domain.unsupported_rate", rows, "unsupported"),
        *mean_over_prompts(metric, rows, "share", proportion=False),
    ]
