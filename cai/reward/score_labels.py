"""A reward model as labeller of pairs: Bradley-Terry of its raw scores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from cai.async_map import gather, in_batches
from cai.constitution import Constitution
from cai.errors import BackendError
from cai.generate.label import judged_pair, labeller
from cai.generate.label_config import LabelConfig
from cai.lm import LM, Sample
from cai.probability import log_sigmoid, sigmoid
from cai.records import Chat, Kind, Pair, Preference, Vote

if TYPE_CHECKING:
    from cai.reward.published_model import PublishedModel

TOO_LONG = "a reply with its prompt is longer than the reward model's window"
PRINCIPLE = "reward"
"""Stands for the principle in the votes of a reward model."""
ScoreReplies = Callable[[Sequence[tuple[Chat, str]]], Sequence[float | None]]
"""(chat, reply) of several replies -> raw scores; None: too long for the model."""


def reward_labeller(
    score: ScoreReplies, scale: float = 1.0
) -> Callable[[Pair], Awaitable[Preference]]:
    """The step that makes one `Preference` from one `Pair`.

        p_first = sigma( (score(first) - score(second)) / scale )

    A reward model sees one reply at a time, so the two orders are one.

    Args:
        scale: in units of the scores. Published models are trained with 1.
    """
    score_reply = in_batches(score)

    async def label(pair: Pair) -> Preference:
        judged = judged_pair(pair)
        if judged.unscored is not None:
            return Preference(source=pair.id, p_first=None, unscored=judged.unscored)
        first, second = await gather(
            [score_reply((judged.chat, reply)) for reply in (judged.first, judged.second)]
        )
        if first is None or second is None:
            return Preference(source=pair.id, p_first=None, unscored=TOO_LONG)
        odds = (first - second) / scale
        vote = Vote(
            principle=PRINCIPLE,
            logprobs=(log_sigmoid(odds), log_sigmoid(-odds)),
            logprobs_swapped=(log_sigmoid(-odds), log_sigmoid(odds)),
            scores=(first, second),
            p_first=sigmoid(odds),
        )
        return Preference(source=pair.id, p_first=vote.p_first, votes=(vote,))

    return label


class RewardJudge:
    """A reward model where a command opens models by their specs. It labels pairs and cannot chat.

    `sample` and `choice_logprobs` raise BackendError, in one line that says so.
    """

    max_concurrency = 64

    def __init__(self, spec: str, model: PublishedModel) -> None:
        self.spec, self.model, self.fingerprint = spec, model, model.fingerprint

    def score(self, replies: Sequence[tuple[Chat, str]]) -> list[float | None]:
        """Raw scores; None for a chat and reply that are longer than the window."""
        return self.model.score_within_window([self.model.rows(*pair) for pair in replies])

    async def sample(
        self,
        chat: Chat,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> Sample:
        raise self._refusal()

    async def choice_logprobs(
        self, chat: Chat, choices: Sequence[str], *, prefill: str = ""
    ) -> list[float] | None:
        raise self._refusal()

    def _refusal(self) -> BackendError:
        return BackendError(
            f"{self.spec}: a reward model scores replies and labels pairs, and does not chat: "
            "name a chat model here"
        )

    async def aclose(self) -> None:
        """Nothing to close: the model lives in this process."""


def open_reward_judge(spec: str) -> RewardJudge:
    """The judge of a spec `reward:FOLDER_OR_HUB_ID`."""
    # torch and transformers take seconds to import: only commands that load a model wait
    from cai.reward.published_model import open_published_model

    return RewardJudge(spec, open_published_model(spec))


def label_scale(judge: LM, config: LabelConfig) -> dict[str, str]:
    """The scale of a reward model's labels, for their manifest; nothing for another judge."""
    return {"scale": f"{config.scale:g}"} if isinstance(judge, RewardJudge) else {}


def pair_labeller(
    constitution: Constitution,
    judge: LM,
    config: LabelConfig,
    seed: int,
    kind_and_category: Callable[[Pair], tuple[Kind | None, str | None]],
) -> Callable[[Pair], Awaitable[Preference]]:
    """`cai.generate.label.labeller`, or `reward_labeller` where the judge is a reward model."""
    if isinstance(judge, RewardJudge):
        return reward_labeller(judge.score, config.scale)
    return labeller(constitution, judge, config, seed, kind_and_category)
