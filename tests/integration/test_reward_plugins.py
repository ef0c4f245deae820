"""The reward plug-ins of OpenRLHF and AReaL, called as the engines call them."""

from __future__ import annotations

import asyncio
import http.server
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from engine_toys import plugin
from reward_toys import HI, TOKEN, by_length, reward_run_file, serving, url_of

from cai.cli.serve import run_end_texts
from cai.integrations.reward_batching import RewardTable
from cai.integrations.reward_server import RewardServer
from cai.records import Prompt

BENIGN = json.dumps({"kind": "benign"})


@pytest.fixture(scope="module")
def server() -> Iterator[RewardServer]:
    with serving(by_length) as running:
        yield running


@pytest.fixture
def configured(server: RewardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variables that point the plug-ins to the server."""
    monkeypatch.setenv("CAI_REWARD_URL", url_of(server))
    monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)


def values(logs: dict[str, Any]) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in logs.items()}


Engine = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return lambda name: plugin(name, monkeypatch)


@pytest.mark.usefixtures("configured")
def test_openrlhf_gets_tensors(load: Engine) -> None:
    """Called in threads with one row, as the engine does; the label brings kind and chat."""
    label = json.dumps({"kind": "benign", "chat": [{"role": "user", "content": "Hi"}]})
    reward_func = load("openrlhf_reward").reward_func

    async def in_thread() -> dict[str, Any]:
        call = asyncio.to_thread(reward_func, ["<s>Hi a b c"], ["<s>Hi"], [label])
        return await asyncio.wait_for(call, 20)

    result = asyncio.run(in_thread())
    assert result["rewards"].tolist() == [4.0]
    assert 0 < result["scores"].item() < 1
    expected = {"pm": [3.0], "rubric": [1.0], "cai_error": [0.0]}
    assert values(result["extra_logs"]) == expected


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    "label", [None, "no JSON", "3", json.dumps({"kind": "odd"}), json.dumps({"kind": "benign"})]
)
@pytest.mark.parametrize("reply", ["a b", "who knows", "boom", "x" * 9000, "\ud800"])
def test_an_unknown_reward_leaves_openrlhf_without_one(
    load: Engine, label: str | None, reply: str
) -> None:
    engine = load("openrlhf_reward")
    arguments = [f"Hi {reply}"], ["Hi"], [label]
    if reply == "a b" and label == json.dumps({"kind": "benign"}):
        assert engine.reward_func(*arguments)["rewards"].tolist() == [3.0]
        return
    with pytest.raises(RuntimeError, match="cai: a reward is unknown: "):
        engine.reward_func(*arguments)
    engine.FILTERS = True
    result = engine.reward_func(*arguments)
    assert result["extra_logs"]["cai_error"].tolist() == [1.0]
    assert [result["rewards"].isnan().all(), result["scores"].isnan().all()] == [True, True]
    low, high = 0, 1
    average = sum(result["scores"].tolist()) / 1
    assert not low < average < high, "the engine's filter drops the group"


@pytest.mark.usefixtures("configured")
def test_openrlhf_queries_without_their_prompt_are_not_scored(load: Engine) -> None:
    """The reply is unknown: the row gets `cai_error`, the other rows their rewards."""
    engine = load("openrlhf_reward")
    engine.FILTERS = True
    labels = [{"kind": "benign"}, {"kind": "benign"}, {"kind": None}]
    result = engine.reward_func(["Hi a b", "Other a b c", "Hi a"], ["Hi"] * 3, labels)
    assert result["rewards"].tolist() == pytest.approx([3.0, math.nan, 1.0], nan_ok=True)
    logs = values(result["extra_logs"])
    assert logs["pm"] == pytest.approx([2.0, math.nan, 1.0], nan_ok=True)
    assert logs["cai_error"] == [0.0, 1.0, 0.0]


@pytest.mark.usefixtures("configured")
def test_areal_passes_decoded_texts_and_the_row(load: Engine) -> None:
    """The signature of areal.api.reward_api.reward_fn: columns of the data set are keywords."""
    reward_fn = load("areal_reward").reward_fn
    turns = [{"role": "user", "content": "Hi"}]
    row = {"messages": turns, "kind": "benign", "id": "x"}
    assert reward_fn("<s>Hi", " a b c", [1, 2], [3], **row) == 4.0
    assert reward_fn("<s>Hi", " a b c", [1, 2], [3], **row | {"kind": None}) == 3.0
    for reply, fields in ((" who knows", row), (" boom", row), (" a", {"messages": turns})):
        with pytest.raises(RuntimeError, match="cai: a reward is unknown: "):
            reward_fn("<s>Hi", reply, [1, 2], [3], **fields)


def test_areal_gives_up_before_the_engine_says_0(
    load: Engine, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 15 seconds without an answer the engine takes 0 for the reward."""
    engine = load("areal_reward")
    assert engine.SERVER_OF_AREAL.within_s < 15
    engine.SERVER_OF_AREAL = engine.Server(within_s=0.2)
    engine.WAITS_S = (0.05,) * 50
    scripted.script = [503] * 50
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="status 503"):
        engine.reward_fn("Hi", " a", [], [], messages=[{"role": "user", "content": "Hi"}])
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("finetuned", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
def test_openrlhf_s_end_tokens_do_not_reach_the_reward(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finetuned: bool, padding: int
) -> None:
    """The reward scores the same reply of a row of tokens as `cai ppo` does.

    The engine decodes the whole row, special tokens included.
    """
    from cai.modeling.tokenization import load_renderer

    (tmp_path / "out").mkdir()
    if finetuned:
        (tmp_path / "out" / "20-sft").symlink_to(tiny_model)
    model = "http://127.0.0.1:9" if finetuned else f"local:{tiny_model}"
    end_texts = run_end_texts(reward_run_file(tmp_path, model))
    renderer = load_renderer(tiny_model)
    scored_replies: list[str] = []

    def score(prompts: Sequence[Prompt], replies: Sequence[str]) -> RewardTable:
        scored_replies.extend(replies)
        return by_length(prompts, replies)

    prompt_ids = renderer.prompt_ids(HI.chat)
    reply_ids = renderer.response_ids("Hello, 1<|im_end|>2. ") + [renderer.pad_token_id] * padding
    decode = renderer.tokenizer.decode
    with serving(score, end_texts) as server:
        monkeypatch.setenv("CAI_REWARD_URL", url_of(server))
        monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)
        query = decode(prompt_ids + reply_ids)
        assert query.endswith("2. <|im_end|>" + "<|im_end|>" * padding)
        result = plugin("openrlhf_reward", monkeypatch).reward_func(
            [query], [decode(prompt_ids)], [BENIGN]
        )
    assert result["extra_logs"]["cai_error"].tolist() == [0.0]
    assert scored_replies == ["Hello, 1<|im_end|>2."] == [renderer.text(reply_ids)]


ENGINES = ["areal_reward", "openrlhf_reward", "verl_reward"]
HI_TURNS = [{"role": "user", "content": "Hi"}]


def ask(engine: ModuleType, reply: str) -> float | None:
    """The reward of one row by the engine's function; None where it raises."""
    row = {"chat": HI_TURNS, "kind": "benign"}
    try:
        if hasattr(engine, "compute_score"):
            return float(engine.compute_score("cai", reply, "", row)["score"])
        if hasattr(engine, "reward_fn"):
            row = {"messages": HI_TURNS, "kind": "benign"}
            return float(engine.reward_fn("Hi", f" {reply}", [], [], **row))
        result = engine.reward_func([f"Hi {reply}"], ["Hi"], [json.dumps(row)])
        return float(result["rewards"].item())
    except RuntimeError:
        return None


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers with the statuses of `script` in turn, then with rewards; records each request."""

    script: list[int] = []
    requests: list[tuple[str, str]] = []
    answer: Any = None

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.requests.append((self.path, self.headers["authorization"]))
        status = self.script.pop(0) if self.script else 200
        answer = {"rewards": [2.0], "scores": [0.9], "reasons": [None], "parts": {"pm": [2.0]}}
        answer |= {"extra_logs": {"pm": [2.0]}}
        body = json.dumps(answer if self.answer is None else self.answer).encode()
        self.send_response(status)
        if status in (302, 307):
            self.send_header("location", "/elsewhere")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Scripted]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("CAI_REWARD_URL", f"http://127.0.0.1:{running.server_port}")
        monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)
        Scripted.script, Scripted.requests, Scripted.answer = [], [], None
        yield Scripted
        running.shutdown()


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("statuses", "tries", "known"),
    [
        ([503, 502], 3, True),
        ([429], 2, True),
        ([503] * 3, 3, False),
        ([500], 1, False),
        ([401], 1, False),
        ([302], 1, False),
        ([307], 1, False),
    ],
)
def test_passing_failures_are_tried_again(
    load: Engine,
    scripted: type[Scripted],
    name: str,
    statuses: list[int],
    tries: int,
    known: bool,
) -> None:
    """A redirect is not followed: it would take the token along."""
    scripted.script = list(statuses)
    assert ask(load(name), "a") == (2.0 if known else None)
    assert len(scripted.requests) == tries
    assert {path for path, _ in scripted.requests} <= {"/score", "/get_reward"}


@pytest.mark.parametrize("name", ENGINES)
def test_no_proxy_sees_the_token(
    load: Engine, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert ask(load(name), "a") == 2.0


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("odd", ["hush\n", "hush\r", " hush", "hush\u00fc"])
def test_an_odd_token_is_neither_sent_nor_printed(
    load: Engine,
    scripted: type[Scripted],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    odd: str,
) -> None:
    monkeypatch.setenv("CAI_REWARD_TOKEN", odd)
    assert ask(load(name), "a") is None
    captured = capsys.readouterr()
    assert "CAI_REWARD_TOKEN" in captured.err
    assert "hush" not in captured.out + captured.err
    assert scripted.requests == []


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"rewards": [2.0], "reasons": []},
        {"rewards": [], "reasons": []},
        {"rewards": ["two"], "reasons": [None]},
        {"rewards": [None], "reasons": [None]},
        {"rewards": [math.inf], "reasons": [None]},
    ],
)
def test_an_answer_of_another_form_is_no_reward(
    load: Engine, scripted: type[Scripted], name: str, answer: Any
) -> None:
    if isinstance(answer, dict) and answer:
        answer = answer | {"parts": {}, "extra_logs": {}}
    scripted.answer = answer
    assert ask(load(name), "a") is None


def test_too_many_unknown_rewards_end_an_openrlhf_that_filters(
    load: Engine, scripted: type[Scripted]
) -> None:
    """16 known and 4 unknown rewards are a fifth, which is allowed. One more is not."""
    engine = load("openrlhf_reward")
    engine.FILTERS = True
    for _ in range(16):
        assert ask(engine, "a") == 2.0
    scripted.script = [401] * 5
    for _ in range(4):
        assert math.isnan(ask(engine, "a") or 0.0)
    with pytest.raises(RuntimeError, match=re.escape("5 of the last 21 rewards are unknown")):
        engine.reward_func(["Hi a"], ["Hi"], [json.dumps({"kind": "benign"})])


def test_ranks_are_shares_with_reasons(load: Engine, scripted: type[Scripted]) -> None:
    scripted.answer = {"rewards": [0.75, None], "parts": {}, "reasons": [None, "no verdict"]}
    engine = load("openrlhf_reward")
    known = engine.ranks({"chat": HI_TURNS, "kind": None}, ["a", "b"])
    assert [(share.value, share.reason) for share in known] == [(0.75, None), (None, "no verdict")]
    scripted.script = [404]
    assert engine.ranks({"chat": HI_TURNS}, ["a", "b"])[1].reason == "status 404"
