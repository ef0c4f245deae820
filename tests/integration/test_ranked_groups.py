"""The server's ranks of the replies of one prompt: limits, missing verdicts, and a run's judge."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from reward_toys import HI, by_length, reward_run_file, send, serving

from cai.cli.serve import run_rewards
from cai.integrations.group_requests import NOT_COMPARED, UNKNOWN_SHARE
from cai.integrations.reward_server import RewardServer
from cai.records import Prompt


def by_words(prompt: Prompt, replies: Sequence[str]) -> list[float | None]:
    if any("boom" in reply for reply in replies):
        raise RuntimeError("a private detail")
    if prompt.kind == "sensitive":
        return []
    return [None if "unclear" in reply else len(reply) / 10 for reply in replies]


@pytest.fixture(scope="module")
def server() -> Iterator[RewardServer]:
    with serving(by_length) as running:
        running.serve_ranks(by_words)
        yield running


def test_shares_come_in_the_order_of_the_replies(server: RewardServer) -> None:
    body = {"prompt": "Hi", "kind": "benign", "responses": ["abc", "unclear", " a "]}
    status, answer = send(server, "/rank", body)
    assert status == 200
    assert answer == {
        "rewards": [0.3, None, 0.1],
        "parts": {},
        "reasons": [None, UNKNOWN_SHARE, None],
    }


def test_replies_that_no_principle_compares_have_a_reason(server: RewardServer) -> None:
    body = {"prompt": "Hi", "kind": "sensitive", "responses": ["a", "b"]}
    _, answer = send(server, "/rank", body)
    assert answer == {"rewards": [None] * 2, "parts": {}, "reasons": [NOT_COMPARED] * 2}


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({}, 400, "`responses` must be"),
        ({"prompt": "Hi", "responses": ["a"]}, 400, "two replies or more"),
        ({"prompt": "Hi", "responses": "ab"}, 400, "`responses` must be"),
        ({"prompt": "Hi", "responses": ["a", 3]}, 400, "`response` must be text"),
        ({"prompt": "Hi", "responses": ["a", "\ud800"]}, 400, "Unicode text"),
        ({"responses": ["a", "b"]}, 400, "rows.0"),
        ({"prompt": "Hi", "kind": "odd", "responses": ["a", "b"]}, 400, "kind"),
        ({"prompt": "Hi", "responses": ["a"] * 33}, 413, "at most 32 in one group"),
        ({"prompt": "Hi", "responses": ["a"] * 9}, 413, "at most 8"),
        ({"prompt": "Hi", "responses": ["a", "b" * 6000]}, 413, "characters"),
        ({"prompt": "Hi", "responses": ["a", "boom"]}, 500, "RuntimeError"),
    ],
)
def test_refusals(server: RewardServer, body: object, status: int, part: str) -> None:
    answered, answer = send(server, "/rank", body)
    assert answered == status
    assert part in answer["error"]
    assert "private" not in answer["error"]


def test_a_token_is_needed(server: RewardServer) -> None:
    status, _ = send(server, "/rank", {"prompt": "Hi", "responses": ["a", "b"]}, token="other")
    assert status == 401


def test_without_a_judge_there_are_no_ranks() -> None:
    with serving(by_length) as running:
        status, answer = send(running, "/rank", {"prompt": "Hi", "responses": ["a", "b"]})
    assert status == 404
    assert "no judge" in answer["error"]


def test_ranks_and_rewards_take_turns() -> None:
    """The judge may be the model that is scored: it is at work for one request at a time."""
    busy = threading.Lock()

    def score(prompts: Sequence[Prompt], replies: Sequence[str]) -> dict[str, list[float | None]]:
        assert busy.acquire(blocking=False)
        threading.Event().wait(0.02)
        busy.release()
        return {"pm": [1.0] * len(replies)}

    def rank(prompt: Prompt, replies: Sequence[str]) -> list[float | None]:
        score([prompt], replies)
        return [0.5] * len(replies)

    statuses: list[int] = []
    with serving(score) as running:
        running.serve_ranks(rank)

        def ask(path: str, body: object) -> None:
            statuses.append(send(running, path, body)[0])

        rows = {"rows": [{"prompt": "Hi", "response": "a", "kind": None}]}
        group = {"prompt": "Hi", "responses": ["a", "b"]}
        bodies = [("/score", rows), ("/rank", group)] * 5
        threads = [threading.Thread(target=ask, args=args) for args in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * 10


def test_a_run_s_judge_ranks(tmp_path: Path) -> None:
    """The fake model names an option for each pair: shares are known, and their mean is 1/2."""
    _, rank = run_rewards(reward_run_file(tmp_path, "fake:polite"))
    shares = rank(HI, ["Yes, gladly.", "No.", "Yes, gladly."])
    assert None not in shares
    assert sum(share or 0.0 for share in shares) / 3 == pytest.approx(0.5)
    assert shares[0] == shares[2]
    assert rank(Prompt(chat=HI.chat, kind="benign"), ["Yes.", "No."]) == [], "no principle applies"
