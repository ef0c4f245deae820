"""The run's reward as a reward function of TRL's GRPOTrainer and RLOOTrainer.

GRPOTrainer(reward_funcs=[reward_function(score), group_reward_function(rank)], ...)

TRL 1.16 leaves a row without a reward out of its group's mean, and gives it an advantage of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cai.errors import UsageError
from cai.generate.rank import Rank
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


def group_reward_function(rank: Rank) -> Callable[..., list[float | None]]:
    """The function (prompts, completions, kind=None, ...) -> shares in [0, 1] that TRL calls.

    A judge compares the replies to each prompt with each other; see `rank_replies`. TRL spreads a
    batch over processes: `per_device_train_batch_size` has to be a multiple of `num_generations`,
    so that the replies of a prompt meet in one process. A reply without another one gets None.
    """

    def cai_group_reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        kinds = columns.get("kind") or [None] * len(prompts)
        groups: dict[Prompt, list[int]] = {}
        for row, (prompt, kind) in enumerate(zip(prompts, kinds, strict=True)):
            groups.setdefault(Prompt(chat=_chat(prompt), kind=kind), []).append(row)
        shares: list[float | None] = [None] * len(prompts)
        for prompt, rows in groups.items():
            ranked = rank(prompt, [_text(completions[row]) for row in rows])
            for row, share in zip(rows, ranked, strict=True):
                shares[row] = share
        return shares

    return cai_group_reward


def _chat(prompt: Any) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in prompt)


def _text(completion: Any) -> str:
    turns = (
        [completion] if isinstance(completion, str) else [turn["content"] for turn in completion]
    )
    return "".join(turns).strip()  # PPO scores stripped replies too
