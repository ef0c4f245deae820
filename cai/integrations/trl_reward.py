"""The run's reward as TRL's trainers call it: `GRPOTrainer(reward_funcs=reward_function(score))`, and RLOOTrainer the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cai.errors import UsageError
from cai.integrations.reward_server import ScoreTexts, summed
from cai.records import Message, Prompt


def reward_function(score: ScoreTexts) -> Callable[..., list[float | None]]:
    """(prompts, completions, kind=None, ...) -> rewards. None where a part is unknown: TRL leaves such rows out of its mean.

    Prompts are chats or texts; a column `kind` of the data set says what each prompt deserves, as `cai export` writes it.

    Raises:
        UsageError: (from the function) the reward has a rubric and the data set no `kind`: the rubric would be silent throughout.
    """

    def cai_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        kinds = columns.get("kind") or [None] * len(prompts)
        asked = [Prompt(chat=_chat(prompt), kind=kind) for prompt, kind in zip(prompts, kinds, strict=True)]
        table = score(asked, [_text(completion) for completion in completions])
        if "rubric" in table and columns.get("kind") is None:
            raise UsageError(
                "cai_reward: the data set has no column `kind`, which the rubric goes by: train on `prompts` of cai export"
            )
        return summed(table)

    return cai_reward


def _chat(prompt: Any) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in prompt)


def _text(completion: Any) -> str:
    text = completion if isinstance(completion, str) else "".join(turn["content"] for turn in completion)
    return text.strip()  # as PPO reads it
