"""The run's reward as a reward function of TRL's GRPOTrainer and RLOOTrainer.

GRPOTrainer(reward_funcs=reward_function(score), ...)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cai.errors import UsageError
from cai.integrations.reward_batching import ScoreTexts, sum_parts
from cai.records import Message, Prompt


def reward_function(score: ScoreTexts) -> Callable[..., list[float | None]]:
    """The function (prompts, completions, kind=None, ...) -> rewards that TRL calls.

    A reward is None where one of its parts is unknown: TRL leaves such rows out of its mean.
    Prompts are chats or texts. A column `kind` of the data set holds each prompt's kind, as
    `cai export` writes it.

    Raises:
        UsageError: (from the returned function) the reward has a rubric and the data set has no
            column `kind`: the rubric could score no row.
    """

    def cai_reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        kinds = columns.get("kind") or [None] * len(prompts)
        rows = zip(prompts, kinds, strict=True)
        parsed = [Prompt(chat=_chat(prompt), kind=kind) for prompt, kind in rows]
        table = score(parsed, [_text(completion) for completion in completions])
        if "rubric" in table and columns.get("kind") is None:
            raise UsageError(
                "cai_reward: the data set has no column `kind`, which the rubric needs: "
                "train on `prompts` of cai export"
            )
        return sum_parts(table)

    return cai_reward


def _chat(prompt: Any) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in prompt)


def _text(completion: Any) -> str:
    turns = (
        [completion] if isinstance(completion, str) else [turn["content"] for turn in completion]
    )
    return "".join(turns).strip()  # PPO scores stripped replies too
