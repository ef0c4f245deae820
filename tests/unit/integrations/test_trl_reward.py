"""The reward function for TRL: unknown rewards, and data sets without kinds."""

from __future__ import annotations

import pytest
from reward_toys import by_length

from cai.errors import UsageError
from cai.integrations.trl_reward import reward_function


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
