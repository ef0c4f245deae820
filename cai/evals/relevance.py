"""Relevance: how much likelier a reply is after its own prompt than after others, in nats.

    relevance = log p(reply | prompt) - mean over K other prompts of log p(reply | other prompt)

It is the pointwise mutual information of reply and prompt, with the marginal estimated from K
prompts of the same data. A reply that would fit any prompt has one near 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cai.async_map import gather
from cai.lm.base import LM
from cai.records import Chat, Prompt
from cai.seeds import rng

OTHERS = 4
"""K: other prompts that a reply is held against."""


def other_prompts(
    prompts: Sequence[Prompt], seed: int, count: int = OTHERS
) -> dict[str, list[Chat]]:
    """Id of a prompt -> chats of others, drawn at random; fewer where there are no more."""
    chats = {prompt.id: prompt.chat for prompt in prompts}
    drawn: Mapping[str, list[Chat]] = {
        name: _draw([other for other in chats if other != name], chats, (seed, name, count))
        for name in chats
    }
    return dict(drawn)


def _draw(
    names: Sequence[str], chats: Mapping[str, Chat], address: tuple[int, str, int]
) -> list[Chat]:
    seed, name, count = address
    stream = rng(seed, "relevance", name)
    return [chats[other] for other in stream.sample(names, min(count, len(names)))]


async def relevance(lm: LM, chat: Chat, others: Sequence[Chat], reply: str) -> float | None:
    """The relevance of `reply` to `chat`; None without other prompts or log-probabilities.

    Args:
        lm: one that scores texts of several tokens: a local model.

    Raises:
        UnansweredError: a call has no answer.
    """
    if not others:
        return None
    if not reply:
        return 0.0
    answers = await gather([lm.choice_logprobs(each, [reply]) for each in (chat, *others)])
    logprobs = [answer[0] for answer in answers if answer is not None]
    if len(logprobs) < len(answers):
        return None
    return logprobs[0] - sum(logprobs[1:]) / len(others)
