"""Replies graded by any grader: values, reasons, batches, means over prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from data_toys import prompt
from graded_toys import graded, metric_of, row

from cai.async_map import in_batches
from cai.errors import TransientError, UnansweredError, is_passing
from cai.evals.means import highest_of_each_prompt, mean_over_prompts
from cai.graders.base import GradedItem, Verdict
from cai.lm import FakeLM
from cai.lm.base import Sample


def test_mean_is_clustered_by_prompt() -> None:
    """Prompts a: 1, 1 and b: 0, 0: mean 1/2. SE^2 = 2/1 * 1/16 * (1^2 + 1^2) = 1/4."""
    rows = [row("a", 0, v=1), row("a", 1, v=1), row("b", 0, v=0), row("b", 1, v=0), row("b", 2)]
    (score,) = mean_over_prompts("m", rows, "v")
    assert (score.mean, score.stderr, score.n, score.unscored) == (0.5, 0.5, 4, 1)


def test_highest_of_each_prompt() -> None:
    """a: conditions x (1, 0) and y (0): 1/2. b: y unknown, x 0: 0. c: unknown. Mean 1/4 of two."""
    rows = [
        row("a", 0, "x", v=1), row("a", 1, "x", v=0), row("a", 0, "y", v=0),
        row("b", 0, "x", v=0), row("b", 0, "y"), row("c", 0, "x"),
    ]  # fmt: skip
    (score,) = highest_of_each_prompt("m", rows, "v", lambda row: row.condition)
    assert (score.mean, score.n, score.unscored) == (0.25, 2, 1)


def test_a_reply_or_verdict_that_is_missing_has_a_reason() -> None:
    async def busy(item: GradedItem, sample: Sample) -> Verdict:
        raise UnansweredError("judge") from TransientError("busy")

    reply = graded([GradedItem(prompt("Q"), prompt("Q").chat)], busy)[0]
    assert reply.values == {}
    assert reply.response == "echo Q"
    assert is_passing(reply.unscored)


def test_draws_have_the_same_seed_under_all_conditions() -> None:
    seeds = []

    def reply(chat: object, seed: int) -> str:
        seeds.append(seed)
        return "x"

    async def no_value(item: GradedItem, sample: Sample) -> Verdict:
        return Verdict({})

    q = prompt("Q")
    items = [GradedItem(q, q.chat, draw, name) for name in "ab" for draw in (0, 1)]
    graded(items, no_value, FakeLM(reply))
    assert seeds[:2] == seeds[2:]
    assert seeds[0] != seeds[1]


def test_calls_of_one_moment_are_one_batch() -> None:
    batches = []

    def double(values: Sequence[int]) -> list[int]:
        batches.append(list(values))
        return [2 * value for value in values]

    call = in_batches(double)

    async def run() -> list[int]:
        return await asyncio.gather(*(call(value) for value in (1, 2, 3)))

    assert asyncio.run(run()) == [2, 4, 6]
    assert asyncio.run(run()) == [2, 4, 6]
    assert batches == [[1, 2, 3], [1, 2, 3]]


def test_an_error_of_a_batch_reaches_its_calls() -> None:
    def fail(values: Sequence[int]) -> list[int]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_batches(fail)(1))  # type: ignore[arg-type]


def test_metric_of_finds_one() -> None:
    scores = mean_over_prompts("m", [row("a", 0, v=1)], "v")
    assert metric_of(scores, "m").mean == 1
