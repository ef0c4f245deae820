"""Requests to rank the replies of one prompt, and the JSON objects that answer them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cai.generate.rank import Rank
from cai.integrations.reward_batching import RewardParts, RewardTable, ScoreJobs
from cai.integrations.reward_requests import Limits, RequestError, score_rows
from cai.records import Prompt

MAX_REPLIES = 32
"""Replies of one group: the judge compares each with each, in both orders."""
NO_RANK = "the server has no judge to rank replies: serve a run"
NOT_COMPARED = "no principle compares replies to this prompt"
"""Of replies that have no share, whatever they say; the verifiers plug-in knows this text."""
UNKNOWN_SHARE = "a comparison of this reply has no verdict, or there is no other reply"


class Group(NamedTuple):
    """A prompt and its replies."""

    prompt: Prompt
    replies: tuple[str, ...]


def parse_group(data: dict[str, Any], limits: Limits) -> Group:
    """The group of a request to /rank: one prompt, as in a row of /score, and `responses`.

    Raises:
        RequestError: (400) a field is wrong; (413) too many replies, or too long a text.
    """
    replies = data.get("responses")
    if not isinstance(replies, list) or len(replies) < 2:
        raise RequestError(400, "`responses` must be a list of two replies or more")
    if len(replies) > MAX_REPLIES:
        raise RequestError(413, f"{len(replies)} replies: at most {MAX_REPLIES} in one group")
    prompt = {name: value for name, value in data.items() if name != "responses"}
    rows = score_rows({"rows": [prompt | {"response": reply} for reply in replies]}, limits)
    return Group(rows[0].prompt, tuple(row.reply for row in rows))


def rank_response(group: Group, shares: Sequence[float | None]) -> dict[str, Any]:
    """Shares of won comparisons, and the reasons of unknown ones."""
    if not shares:
        count = len(group.replies)
        return {"rewards": [None] * count, "parts": {}, "reasons": [NOT_COMPARED] * count}
    reasons = [UNKNOWN_SHARE if share is None else None for share in shares]
    return {"rewards": list(shares), "parts": {}, "reasons": reasons}


def group_score(rank: Rank) -> ScoreJobs:
    """`rank` for a scorer whose batches have one job: a reply's number -> its share."""

    def score(prompts: Sequence[Prompt], groups: Sequence[Any]) -> RewardTable:
        shares = rank(prompts[0], groups[0])
        return {str(number): [share] for number, share in enumerate(shares)}

    return score


def shares_of(parts: RewardParts) -> list[float | None]:
    """The shares of a group, in the order of its replies."""
    return list(parts.values())
