"""The table of rewards: sums of known parts, penalties, coroutines, faulty reward functions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from ppo_toys import rollout_of

from cai.errors import TrainError
from cai.modeling.tokenization import load_renderer
from cai.records import Prompt, chat_of
from cai.train.ppo.reward_table import add_missing_eos_penalty, compute_rewards, sum_rewards
from cai.train.ppo.rollout import RewardTable, Rollout

ROLLOUTS = [Rollout(Prompt(chat=chat_of(("user", "hi"))), [1], [2, 3], "x", True)] * 3


def test_a_reward_may_be_a_coroutine_function() -> None:
    """Three concurrent requests, of which the second gets no answer: only its reward is unknown."""
    in_flight: list[int] = []

    async def request(i: int) -> float | None:
        in_flight.append(i)
        await asyncio.sleep(0)
        assert len(in_flight) == 3
        return None if i == 1 else float(i)

    async def score(rollouts: Sequence[Rollout]) -> RewardTable:
        return {"server": list(await asyncio.gather(*map(request, range(len(rollouts)))))}

    assert compute_rewards(score, ROLLOUTS) == {"server": [0.0, None, 2.0]}
    assert compute_rewards(lambda rollouts: {"plain": [1.0, None, 2.0]}, ROLLOUTS) == {
        "plain": [1.0, None, 2.0]
    }


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"r": [1.0, 2.0]}, "'r' has 2 values for 3 rollouts"),
        ({"r": [1.0, float("nan"), 2.0]}, "'r' is not a finite number somewhere: None stands for"),
        ({"r": [1.0, float("inf"), 2.0]}, "'r' is not a finite number somewhere"),
    ],
)
def test_a_reward_that_is_no_number_is_refused(table: RewardTable, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        compute_rewards(lambda rollouts: table, ROLLOUTS)


def test_sums_of_rewards(tiny_model: Path) -> None:
    """Parts are summed; a rollout with an unknown part is left out; a reply without an end token
    loses .25.
    """
    renderer = load_renderer(tiny_model)
    rollouts = [
        rollout_of([5, renderer.eos_token_id], renderer),
        rollout_of([5, 6], renderer),
        rollout_of([7], renderer),
        rollout_of([8, 9], renderer),
    ]
    table: RewardTable = {"a": [1.0, None, 3.0, 0.0], "b": [0.5, 1.0, 1.0, None]}
    assert sum_rewards(add_missing_eos_penalty(table, rollouts, 0.0)) == ([0, 2], [1.5, 4.0])
    assert sum_rewards(add_missing_eos_penalty(table, rollouts, 0.25)) == (
        [0, 2],
        [1.5, 3.75],
    )


def test_an_error_of_the_reward_function_is_named() -> None:
    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        raise ConnectionRefusedError("nobody there")

    with pytest.raises(TrainError, match="ppo: the reward: ConnectionRefusedError: nobody there"):
        compute_rewards(score, [])


def test_a_reward_may_be_awaited_where_a_loop_is_running() -> None:
    """As in a notebook."""

    async def score(rollouts: Sequence[Rollout]) -> RewardTable:
        await asyncio.sleep(0)
        return {"r": []}

    async def notebook() -> RewardTable:
        return compute_rewards(score, [])

    assert asyncio.run(notebook()) == {"r": []}
