"""Labels from a score of each reply alone, by a model in this process.

`relevance` asks the model nothing: it is how much the prompt tells the model of the reply, the
pointwise mutual information of prompt and reply as in the diversity objective of arXiv:1510.03055.
No order of the two replies plays a part. Left out on purpose: endpoints, which give
log-probabilities of single tokens and not of replies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cai.async_map import gather
from cai.errors import UsageError
from cai.generate.label_config import NEEDS_LOCAL_JUDGE, LabelConfig
from cai.lm.base import LM
from cai.lm.http import asks_server
from cai.probability import log_sigmoid
from cai.records import Chat, Pair, Vote, chat_of
from cai.shipped import PROBE_PAIRS
from cai.store import content_digest

OTHER_CHATS = (
    chat_of(("user", "What should I cook for dinner tonight?")),
    chat_of(("user", "How do I mend a flat bicycle tyre?")),
)
"""Replies are compared with how likely they are after the first of these that is not the pair's."""
LOG_ODDS_A_NAT = 0.06
"""What one nat of relevance more is worth: fitted on 159 pairs of this project's own, with
SmolLM2-135M. Relevance as a sum predicted them better than a mean over tokens or characters."""


def refuse_unsuitable(judge: LM, config: LabelConfig) -> None:
    """Raises UsageError: the judge cannot give the scores that the config names."""
    if config.ask == "relevance" and asks_server(judge):
        raise UsageError(f"label: {NEEDS_LOCAL_JUDGE}")
    if config.ask == "probe":
        from cai.generate.harm_probe import local_judge

        local_judge(judge)


def score_provenance(config: LabelConfig) -> dict[str, str]:
    """What decides scores beside the judge and the config: the texts of the probe."""
    return {"probe": content_digest(PROBE_PAIRS)} if config.ask == "probe" else {}


async def score_vote(judge: LM, pair: Pair, config: LabelConfig) -> Vote:
    """The vote by the score that `config.ask` names.

    Raises:
        UnansweredError: a reply does not fit the judge's window.
    """
    if config.ask == "relevance":
        return await relevance_vote(judge, pair)
    # torch takes seconds to import
    from cai.generate.harm_probe import local_judge, probe_vote

    return probe_vote(local_judge(judge), pair)


def relevance_log_odds(given: Sequence[float], apart: Sequence[float]) -> float:
    """Log-odds that the first of two replies is better.

        k (r_1 - r_2)      r = log p(reply | chat) - log p(reply | other chat)

    Args:
        given: log p of both replies after their chat, in nats.
        apart: log p of both replies after another chat.
    """
    first, second = (after - alone for after, alone in zip(given, apart, strict=True))
    return LOG_ODDS_A_NAT * (first - second)


def scored_vote(name: str, log_odds: float) -> Vote:
    """A vote that is the same in both orders: option A has the log-odds, and -A when swapped."""
    first, second = log_sigmoid(log_odds), log_sigmoid(-log_odds)
    return Vote(
        principle=name,
        logprobs=(first, second),
        logprobs_swapped=(second, first),
        p_first=math.exp(first),
    )


async def relevance_vote(judge: LM, pair: Pair) -> Vote:
    """The vote by relevance, without a probability where the judge gives a reply no number.

    Raises:
        UnansweredError: a reply does not fit the judge's window.
    """
    replies = (pair.first, pair.second)
    other = next(chat for chat in OTHER_CHATS if chat != pair.chat)
    given, apart = await gather(
        [reply_logprobs(judge, chat, replies) for chat in (pair.chat, other)]
    )
    if given is None or apart is None:
        return Vote(principle="relevance", logprobs=None, logprobs_swapped=None, p_first=None)
    return scored_vote("relevance", relevance_log_odds(given, apart))


async def reply_logprobs(judge: LM, chat: Chat, replies: Sequence[str]) -> list[float] | None:
    """log p of each reply to the chat, in nats; None unless all are known."""
    logprobs = await judge.choice_logprobs(chat, replies)
    return logprobs if logprobs and all(map(math.isfinite, logprobs)) else None
