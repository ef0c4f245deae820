"""What is paid for: reserved before it leaves, settled, logged and counted, also if refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from canned import Canned, CannedLM, Request, always, choice_answer, ok, reply_answer
from lm_calls import HELLO, choose_a_or_b, run_calls, sample_hello, user_chat

from cai.async_map import gather
from cai.errors import BackendError, BudgetError, UnansweredError
from cai.lm.budget import Budget, MeteredLM, Prices
from cai.lm.caching import CachedLM
from cai.lm.http import HttpConfig, HttpLM
from cai.lm.request_log import RequestLog

PRICES = Prices(prompt=5, completion=20)
TOKENS = 60
"""Of one canned answer."""


def sample_many(lm: Any, count: int) -> None:
    async def calls(lm: Any) -> None:
        await gather(
            [
                lm.sample(user_chat(f"Hello {i}."), max_tokens=16, temperature=1.0, seed=i)
                for i in range(count)
            ]
        )

    run_calls(lm, calls)


@pytest.mark.parametrize("connections", [1, 8, 64])
@pytest.mark.parametrize("limit", [{"max_tokens": 500}, {"max_cost": 8.5 * 0.00045}])
def test_calls_at_once_keep_to_the_limit(
    tmp_path: Path, connections: int, limit: dict[str, float]
) -> None:
    """600 calls of 60 tokens queued at once under 500: 8 of them leave, and all 8 are logged."""
    http = CannedLM(always(reply_answer()), HttpConfig(connections=connections))
    budget, log = Budget(**limit), RequestLog(tmp_path / "log.sqlite")
    with pytest.raises(BudgetError, match="is reached"):
        sample_many(CachedLM(MeteredLM(http, budget, PRICES), log), 600)
    assert http.requests == budget.calls == len(list(log.rows())) == 8
    assert budget.tokens == 8 * TOKENS


def test_a_limit_below_one_call_lets_none_out() -> None:
    http = CannedLM(always(reply_answer()))
    with pytest.raises(BudgetError, match=r"--max-tokens 20 is reached .*next call may take 21"):
        sample_hello(MeteredLM(http, Budget(max_tokens=20), PRICES))
    assert http.requests == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [("Cut", "length"), ("No.", "content_filter"), (None, "stop"), ("x", "abort"), ("x", None),
     ("<think>x", "stop")],
)  # fmt: skip
def test_refused_answers_are_charged_logged_and_counted(
    tmp_path: Path, content: Any, reason: Any
) -> None:
    """The same request is refused again from the log, at no cost."""
    http = CannedLM(always(reply_answer(content, reason)))
    budget, log = Budget(), RequestLog(tmp_path / "log.sqlite")
    lm = CachedLM(MeteredLM(http, budget, PRICES), log)
    reasons = []
    for _ in range(2):
        with pytest.raises(UnansweredError) as error:
            sample_hello(lm)
        reasons.append(str(error.value))
    assert reasons[0] == reasons[1]
    assert (http.requests, budget.calls, budget.tokens, budget.refused) == (1, 1, TOKENS, 1)
    assert "1 answers refused" in budget.summary()
    (row,) = log.rows()
    assert (row["prompt_tokens"], row["completion_tokens"]) == (50, 10)
    assert row["answer"]["refused"] == reasons[0]


def test_a_logged_refusal_is_taken_once_it_is_allowed(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log.sqlite")
    answer = always(reply_answer("Cut", "length"))
    with pytest.raises(UnansweredError):
        sample_hello(CachedLM(CannedLM(answer), log))
    http = CannedLM(answer, HttpConfig(allow=("length",)))
    got = sample_hello(CachedLM(http, log))
    assert (got.text, got.finished, got.completion_tokens, http.requests) == ("Cut", False, 10, 0)


def test_missing_log_probabilities_are_charged_and_asked_for_again(tmp_path: Path) -> None:
    """The server may be started anew with them."""
    log, budget = RequestLog(tmp_path / "log.sqlite"), Budget()
    with pytest.raises(UnansweredError):
        choose_a_or_b(CachedLM(MeteredLM(CannedLM(always(reply_answer())), budget, PRICES), log))
    assert (budget.calls, budget.tokens, budget.refused) == (1, TOKENS, 1)
    better = CannedLM(always(choice_answer(("A", -0.2), ("B", -1.8))))
    assert choose_a_or_b(CachedLM(MeteredLM(better, budget, PRICES), log)) == [-0.2, -1.8]
    assert budget.tokens == TOKENS + 51
    assert [(kind, calls, prompt) for _, kind, calls, prompt, *_ in log.stats()] == [
        ("choice", 2, 100)
    ]


def test_refused_answers_in_a_row_end_the_run() -> None:
    http = CannedLM(always(reply_answer("Cut", "length")), HttpConfig(connections=1))
    for _ in range(15):
        with pytest.raises(UnansweredError):
            sample_hello(http)
    with pytest.raises(BackendError, match=r"16 calls in a row .*ended by length") as error:
        sample_hello(http)
    assert not isinstance(error.value, UnansweredError)


def test_statuses_cost_nothing_and_lost_answers_do() -> None:
    """Three malformed answers are charged with what they hold; a status 400 with nothing."""
    budget = Budget()
    with pytest.raises(UnansweredError):
        sample_hello(MeteredLM(CannedLM(always(Canned(b"{}", status=400))), budget, PRICES))
    assert budget.calls == 0
    empty = reply_answer() | {"choices": []}
    with pytest.raises(BackendError):
        sample_hello(MeteredLM(CannedLM(always(empty)), budget, PRICES))
    assert (budget.calls, budget.tokens) == (3, 3 * TOKENS)


def test_calls_under_way_are_settled_not_cancelled(tmp_path: Path) -> None:
    """Four calls under way when a fifth is refused with 401: their answers are awaited and logged.

    The calls that are queued never leave.
    """

    def respond(body: dict[str, Any], request: Request) -> Canned:
        if body["messages"][0]["content"] == "Hello 4.":
            return Canned(b"{}", status=401)
        # the body trickles for some 0.2 s
        return Canned(json.dumps(reply_answer()).encode(), chunk_seconds=0.001)

    http = CannedLM(respond, HttpConfig(connections=5))
    budget, log = Budget(), RequestLog(tmp_path / "log.sqlite")
    with pytest.raises(BackendError, match="401"):
        sample_many(CachedLM(MeteredLM(http, budget, PRICES), log), 40)
    assert http.requests == 5
    assert (budget.calls, budget.tokens) == (4, 4 * TOKENS)
    assert len(list(log.rows())) == 4


def test_a_call_that_is_cancelled_under_way_is_charged() -> None:
    """Without a log nothing waits for its answer: it costs its estimate, 5 + 16 tokens."""
    slow = Canned(json.dumps(reply_answer()).encode(), chunk_seconds=1.0)
    http, budget = CannedLM(always(slow)), Budget()
    lm = MeteredLM(http, budget, PRICES)

    async def calls(lm: Any) -> None:
        job = asyncio.create_task(lm.sample(HELLO, max_tokens=16, temperature=1.0, seed=0))
        await asyncio.sleep(0.05)
        job.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await job

    run_calls(lm, calls)
    assert (budget.calls, budget.tokens) == (1, 21)


def test_an_outage_is_outlasted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven faults in a row, then an answer. A server that never answered is tried six times."""
    answers = [Canned(b"", status=503)] * 11

    def respond(body: dict[str, Any], request: Request) -> Canned:
        return answers.pop() if answers and body["seed"] == 3 else ok(reply_answer())

    http = CannedLM(respond)

    async def first(lm: HttpLM) -> None:
        await lm.sample(HELLO, max_tokens=16, temperature=1.0, seed=0)

    run_calls(http, first)
    assert sample_hello(http).text == "Well."
    assert http.requests == 13
    dead = CannedLM(always(Canned(b"", status=503)))
    with pytest.raises(BackendError, match="is the server running"):
        sample_hello(dead)
    assert dead.requests == 6
