"""The reward function for TRL: unknown rewards, and data sets without kinds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from reward_toys import by_length

from cai.errors import UsageError
from cai.integrations.trl_reward import group_reward_function, reward_function
from cai.records import Prompt


def test_an_unknown_reward_is_none() -> None:
    reward = reward_function(by_length)
    chat = [{"role": "user", "content": "Hi"}]
    completions = [[{"role": "assistant", "content": text}] for text in ("a b", "who knows")]
    columns = {"kind": ["benign", None], "completion_ids": [[1], [2]]}
    assert reward(prompts=[chat, chat], completions=completions, **columns) == [3.0, None]
    assert reward(prompts=["Hi"], completions=["a"], kind=[None]) == [1.0]


def test_trl_without_kinds_is_an_error_where_there_is_a_rubric() -> None:
    """A rubric scores no prompt without a kind: without the column it would score none at all."""
    with pytest.raises(UsageError, match="no column `kind`"):
        reward_function(by_length)(prompts=["Hi"], completions=["a"])
    without_rubric = reward_function(lambda prompts, replies: {"pm": [1.0 for _ in replies]})
    assert without_rubric(prompts=["Hi"], completions=["a"]) == [1.0]


def test_replies_to_a_prompt_are_ranked_together() -> None:
    """Prompts are told apart by text and kind, wherever their replies are in the batch."""
    groups: list[list[str]] = []

    def rank(prompt: Prompt, replies: Sequence[str]) -> list[float | None]:
        groups.append(list(replies))
        return [None if "who" in reply else len(reply) / 10 for reply in replies]

    prompts, kinds = ["Hi", "Yo", "Hi", "Yo", "Hi"], ["benign"] * 4 + [None]
    completions = ["a", "bb", " ccc ", "who knows", "d"]
    shares = group_reward_function(rank)(prompts=prompts, completions=completions, kind=kinds)
    assert groups == [["a", "ccc"], ["bb", "who knows"], ["d"]]
    assert shares == [0.1, None, 0.3, None, 0.1]
    reward = reward_function(by_length, rank, rank_weight=10.0)
    rewards = reward(prompts=prompts, completions=completions, kind=kinds)
    assert rewards == [3.0, 2.0, 5.0, None, 2.0]
