"""The reward over HTTP: limits, tokens, many requests at once, wrong bodies, batches."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from reward_toys import AUTHORIZATION, HI, TOKEN, by_length, connected, send, serving

from cai.integrations.reward_batching import RewardParts, RewardTable, ScoreTexts
from cai.integrations.reward_requests import Limits, RequestError, ScoreRow
from cai.integrations.reward_server import RewardServer
from cai.records import Prompt


@pytest.fixture(scope="module")
def server() -> Iterator[RewardServer]:
    with serving(by_length) as running:
        yield running


def test_rewards_by_part(server: RewardServer) -> None:
    rows = [
        {"prompt": "Hi", "response": "one two", "kind": "benign"},
        {
            "chat": [{"role": "user", "content": "Hi"}],
            "response": "who knows",
            "kind": "disallowed",
        },
    ]
    parts = {"pm": [2.0, None], "rubric": [1.0, 0.0]}
    status, answer = send(server, "/score", {"rows": rows})
    assert (status, answer["rewards"], answer["parts"]) == (200, [3.0, None], parts)
    surrogate_pair = b'{"rows": [{"prompt": "a", "response": "\\ud83d\\ude00"}]}'
    assert send(server, "/score", surrogate_pair)[0] == 200
    assert send(server, "/score", {"rows": []}) == (
        200,
        {"rewards": [], "parts": {}, "reasons": []},
    )
    assert send(server, "/health", b"", method="GET")[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"{", 400, "not JSON"),
        (b"[" * 10_000, 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        ([], 400, "JSON object"),
        ({"rows": "x"}, 400, "list of objects"),
        ({"rows": [{"prompt": "a"}]}, 400, "rows.0: `response` must be text"),
        ({"rows": [{"response": "a"}]}, 400, "rows.0"),
        ({"rows": [{"prompt": "a", "response": "b", "kind": "odd"}]}, 400, "kind"),
        (
            {"rows": [{"chat": [{"role": "assistant", "content": "x"}], "response": "b"}]},
            400,
            "rows.0",
        ),
        (
            {"rows": [{"prompt": "a", "response": "b\ud800"}]},
            400,
            "rows.0: `response` must be Unicode text, without lone surrogates",
        ),
        (
            {"rows": [{"prompt": "\udc00", "response": "b"}]},
            400,
            "rows.0: a text holds half a surrogate pair",
        ),
        (
            {"rows": [{"chat": [{"role": "user", "content": "\ud800a"}], "response": "b"}]},
            400,
            "rows.0: a text holds half a surrogate pair",
        ),
        ({"rows": [{"prompt": "a", "response": "b"}] * 9}, 413, "at most 8"),
        ({"rows": [{"prompt": "a", "response": "b" * 6000}]}, 413, "more than 5000 characters"),
        ({"rows": [{"prompt": "a", "response": "b" * 30_000}]}, 413, "more than 20000 bytes"),
        ({"rows": [{"prompt": "a", "response": "boom"}]}, 500, "the reward failed: RuntimeError"),
    ],
)
def test_wrong_bodies(server: RewardServer, body: Any, status: int, why: str) -> None:
    """A one-line error without private details, and the server continues to serve."""
    code, answer = send(server, "/score", body)
    assert (code, why in answer["error"]) == (status, True), answer
    assert "private" not in answer["error"]
    assert send(server, "/score", {"rows": [{"prompt": "a", "response": "b"}]})[0] == 200


@pytest.mark.parametrize("token", ["", "wrong", "secre", "secret2", "ü"])
def test_a_wrong_token_learns_nothing(server: RewardServer, token: str) -> None:
    body = {"rows": [{"prompt": "a", "response": "b"}]}
    code, answer = send(server, "/score", body, token=token.encode().decode("latin-1"))
    assert code == 401
    assert TOKEN not in answer["error"].replace("wrong token", "")


def test_unknown_paths(server: RewardServer) -> None:
    assert send(server, "/elsewhere", {})[0] == 404
    assert send(server, "/elsewhere", b"", method="GET")[0] == 404


def test_a_thousand_requests_at_once(server: RewardServer) -> None:
    """Each request gets the reward of its reply."""

    def score(i: int) -> tuple[int, Any]:
        row = {"prompt": "a", "response": "w " * (i % 50), "kind": "benign"}
        return send(server, "/score", {"rows": [row]})

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(score, range(1000)))
    rewards = [answer["rewards"] for code, answer in answers if code == 200]
    assert rewards == [[i % 50 + 1.0] for i in range(1000)]


@pytest.mark.parametrize(
    ("length", "status"),
    [("²", 400), ("-1", 400), ("", 400), ("1_0", 400), ("9" * 5000, 400), ("9" * 20, 413)],
)
def test_a_wrong_length_gets_an_answer(server: RewardServer, length: str, status: int) -> None:
    head = f"POST /score HTTP/1.1\r\nHost: a\r\n{AUTHORIZATION}Content-Length: {length}\r\n\r\n"
    with connected(server) as raw:
        raw.sendall(head.encode("latin-1"))
        assert raw.recv(100).startswith(b"HTTP/1.1 %d" % status)


class GatedScorer:
    """`by_length`, which waits for `gate` and records each batch of replies."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered, self.gate = threading.Event(), threading.Event()

    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> RewardTable:
        self.batches.append(list(replies))
        self.entered.set()
        assert self.gate.wait(60)
        return by_length(prompts, replies)


ServerOf = Callable[[ScoreTexts, Limits], RewardServer]
SHORT = Limits(batch_size=1, timeout_s=0.05)
PATIENT = Limits(batch_size=16, timeout_s=60.0)


@pytest.fixture
def scorer() -> Iterator[GatedScorer]:
    gated = GatedScorer()
    yield gated
    gated.gate.set()


@pytest.fixture
def server_of() -> Iterator[ServerOf]:
    """Servers that do not listen, for calls of `rewards`."""
    servers = []

    def start(score: ScoreTexts, limits: Limits) -> RewardServer:
        servers.append(RewardServer(("127.0.0.1", 0), score, TOKEN, limits))
        return servers[-1]

    yield start
    for server in servers:
        server.server_close(timeout_s=0)


def rewards(server: RewardServer, *replies: str) -> list[RewardParts]:
    return asyncio.run(server.rewards([ScoreRow(HI, reply) for reply in replies]))


def test_rows_of_requests_that_timed_out_are_not_scored(
    scorer: GatedScorer, server_of: ServerOf
) -> None:
    """Three requests: one times out in the model, one in the queue, and the third is in time.

    The second one is never scored.
    """
    server = server_of(scorer, SHORT)
    for reply in ("first", "second"):
        with pytest.raises(RequestError, match="no rewards in time"):
            rewards(server, reply)
        assert scorer.entered.wait(60)
    scorer.gate.set()
    server.limits = replace(SHORT, timeout_s=60.0)
    assert rewards(server, "the third")[0]["pm"] == 2.0
    assert scorer.batches == [["first"], ["the third"]]


def test_a_full_queue_does_not_delay_a_timeout(scorer: GatedScorer, server_of: ServerOf) -> None:
    server = server_of(scorer, replace(SHORT, max_queued=1))
    with ThreadPoolExecutor(1) as pool:
        scored = pool.submit(rewards, server, *(f"reply {i}" for i in range(4)))
        try:
            error = scored.exception(timeout=20)
        finally:
            scorer.gate.set()
    assert isinstance(error, RequestError)
    assert error.status == 503


def test_only_the_faulty_row_of_a_batch_fails(scorer: GatedScorer, server_of: ServerOf) -> None:
    """Three requests that are scored together, one with a row that makes the model raise."""
    server = server_of(scorer, PATIENT)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(rewards, server, "first")
        assert scorer.entered.wait(60)
        others = [pool.submit(rewards, server, reply) for reply in ("a b", "boom", "a b c")]
        deadline = time.monotonic() + 60
        while server.scorer.jobs.qsize() < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        scorer.gate.set()
        assert first.result()[0]["pm"] == 1.0
        assert [others[0].result()[0]["pm"], others[2].result()[0]["pm"]] == [2.0, 3.0]
        with pytest.raises(RequestError, match="the reward failed: RuntimeError"):
            others[1].result()
    assert sorted(scorer.batches[1]) == ["a b", "a b c", "boom"]
