"""The run's reward as a reward function of TRL's GRPOTrainer and RLOOTrainer.

GRPOTrainer(reward_funcs=reward_function(score, rank), ...)

TRL 1.16 leaves a row without a reward out of its mean, and gives it an advantage of 0. But of
several reward functions it takes those that are None for 0: all parts belong in one function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cai.errors import UsageError
from cai.generate.rank import Rank
from cai.integrations.reward_batching import ScoreTexts, sum_parts
from cai.records import Message, Prompt


def reward_function(
    score: ScoreTexts, rank: Rank | None = None, rank_weight: float = 1.0
) -> Callable[..., list[float | None]]:
    """The function (prompts, completions, kind=None, ...) -> rewards that TRL calls.

    A reward is None where one of its parts is unknown. Prompts are chats or texts. A column `kind`
    of the data set holds each prompt's kind, as `cai export` writes it.

    Args:
        score: the parts of each reply's reward.
        rank: a judge that compares the replies to each prompt: see `group_reward_function`. A
            prompt whose replies have no shares keeps its other parts: a constant for all of its
            replies changes no advantage within them.
        rank_weight: of each reply's share.

    Raises:
        UsageError: (from the returned function) the reward has a rubric and the data set has no
            column `kind`: the rubric could score no row.
    """
    shares_of = None if rank is None else group_reward_function(rank)

    def cai_reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        parsed = _parsed(prompts, columns)
        table = score(parsed, [_text(completion) for completion in completions])
        if "rubric" in table and columns.get("kind") is None:
            raise UsageError(
                "cai_reward: the data set has no column `kind`, which the rubric needs: "
                "train on `prompts` of cai export"
            )
        rewards = sum_parts(table)
        if shares_of is None:
            return rewards
        shares = shares_of(prompts, completions, **columns)
        return [
            reward if reward is None or share is None else reward + rank_weight * share
            for reward, share in zip(rewards, shares, strict=True)
        ]

    return cai_reward


def group_reward_function(rank: Rank) -> Callable[..., list[float | None]]:
    """The function (prompts, completions, kind=None, ...) -> shares in [0, 1] that TRL calls.

    A judge compares the replies to each prompt with each other; see `rank_replies`. The shares of a
    prompt are all known or all None: it has none where a comparison has no verdict, where the
    constitution has no principle for its kind, and where there is a single reply. TRL spreads a
    batch over processes: `per_device_train_batch_size` has to be a multiple of `num_generations`,
    so that the replies to a prompt meet in one process.
    """

    def cai_group_reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        groups: dict[Prompt, list[int]] = {}
        for row, prompt in enumerate(_parsed(prompts, columns)):
            groups.setdefault(prompt, []).append(row)
        shares: list[float | None] = [None] * len(prompts)
        for prompt, rows in groups.items():
            ranked = rank(prompt, [_text(completions[row]) for row in rows])
            if ranked and None not in ranked:
                for row, share in zip(rows, ranked, strict=True):
                    shares[row] = share
        return shares

    return cai_group_reward


def _parsed(prompts: Sequence[Any], columns: dict[str, Any]) -> list[Prompt]:
    kinds = columns.get("kind") or [None] * len(prompts)
    rows = zip(prompts, kinds, strict=True)
    return [Prompt(chat=_chat(prompt), kind=kind) for prompt, kind in rows]


def _chat(prompt: Any) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in prompt)


def _text(completion: Any) -> str:
    turns = (
        [completion] if isinstance(completion, str) else [turn["content"] for turn in completion]
    )
    return "".join(turns).strip()  # PPO scores stripped replies too
