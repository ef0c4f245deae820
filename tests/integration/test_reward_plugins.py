"""The reward plug-ins of OpenRLHF and verl, called as the engines call them."""

from __future__ import annotations

import asyncio
import http.server
import json
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from reward_toys import HI, TOKEN, by_length, reward_run_file, serving, url_of

from cai.cli.serve import run_end_texts
from cai.integrations.plugins import plugin_source
from cai.integrations.reward_batching import RewardTable
from cai.integrations.reward_server import RewardServer
from cai.records import Prompt
from cai.reward.composite import RewardWeights

BENIGN = json.dumps({"kind": "benign"})


@pytest.fixture(scope="module")
def server() -> Iterator[RewardServer]:
    with serving(by_length) as running:
        yield running


def plugin(name: str) -> ModuleType:
    """The text that `cai export` writes as a module, with shorter pauses."""
    module = ModuleType(name)
    exec(plugin_source(name.removesuffix("_reward")), vars(module))  # noqa: S102  # our own text
    module.WAITS_S = (0.01, 0.02)  # type: ignore[attr-defined]
    return module


@pytest.fixture
def configured(server: RewardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variables that point the plug-ins to the server."""
    monkeypatch.setenv("CAI_REWARD_URL", url_of(server))
    monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)


def values(logs: dict[str, Any]) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in logs.items()}


@pytest.mark.usefixtures("configured")
def test_openrlhf_gets_tensors() -> None:
    """Called in threads with one row, as the engine does; the label brings kind and chat."""
    label = json.dumps({"kind": "benign", "chat": [{"role": "user", "content": "Hi"}]})
    reward_func = plugin("openrlhf_reward").reward_func

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
def test_openrlhf_never_raises(label: str | None, reply: str) -> None:
    result = plugin("openrlhf_reward").reward_func([f"Hi {reply}"], ["Hi"], [label])
    assert result["rewards"].shape == result["scores"].shape == (1,)
    good = reply == "a b" and label == json.dumps({"kind": "benign"})
    assert result["extra_logs"]["cai_error"].tolist() == [0.0 if good else 1.0]


def test_openrlhf_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_REWARD_URL", "http://127.0.0.1:9")
    result = plugin("openrlhf_reward").reward_func(["a", "b"], ["a", "b"], None)
    assert result["extra_logs"]["cai_error"].tolist() == [1.0, 1.0]


@pytest.mark.usefixtures("configured")
def test_openrlhf_queries_without_their_prompt_are_not_scored() -> None:
    """The reply is unknown: the row gets `cai_error`, the other rows their rewards."""
    reward_func = plugin("openrlhf_reward").reward_func
    labels = [{"kind": "benign"}, {"kind": "benign"}, {"kind": None}]
    result = reward_func(["Hi a b", "Other a b c", "Hi a"], ["Hi"] * 3, labels)
    assert result["rewards"].tolist() == [3.0, 2.0, 1.0]
    assert values(result["extra_logs"]) == {
        "pm": [2.0, 1.5, 1.0],
        "rubric": [1.0, 1.0, 0.0],
        "cai_error": [0.0, 1.0, 0.0],
    }
    result = reward_func(["Other"], ["Hi"], labels[:1])
    assert result["rewards"].tolist() == [2.0], "the recent mean"
    assert values(result["extra_logs"]).keys() == {"cai_error"}
    assert result["extra_logs"]["cai_error"].tolist() == [1.0]


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
        result = plugin("openrlhf_reward").reward_func([query], [decode(prompt_ids)], [BENIGN])
    assert result["extra_logs"]["cai_error"].tolist() == [0.0]
    assert scored_replies == ["Hello, 1<|im_end|>2."] == [renderer.text(reply_ids)]


@pytest.mark.usefixtures("configured")
def test_verl_has_always_the_same_keys() -> None:
    score = plugin("verl_reward").compute_score
    info = {"chat": json.dumps([{"role": "user", "content": "Hi"}]), "kind": "benign"}
    known = score("cai", "a b", "", info)
    assert (known["score"], known["pm"], known["cai_error"]) == (3.0, 2.0, 0.0)
    others = [
        score("cai", "who knows", "", info),
        score("cai", "a", "", None),
        score("cai", "boom", "", info),
        score("cai", "a", "", info, server_url="http://127.0.0.1:9"),
    ]
    assert all(result.keys() == known.keys() for result in others)
    assert [result["cai_error"] for result in others] == [1.0] * 4


def test_verl_has_a_key_for_every_part_of_the_reward() -> None:
    """Each weight of the mix is a part; the plug-in would drop one that is not in its keys."""
    parts = set(RewardWeights.model_fields) - {"free_words"}
    assert set(plugin("verl_reward").KEYS) == parts | {"score", "cai_error"}


ENGINES = ["openrlhf_reward", "verl_reward"]


def ask(engine: ModuleType, reply: str, kind: Any = "benign") -> tuple[float, float]:
    """Reward and `cai_error` of one row, whatever the engine. `kind` "absent": no such column."""
    fields = {"chat": json.dumps([{"role": "user", "content": "Hi"}])}
    fields |= {} if kind == "absent" else {"kind": kind}
    if hasattr(engine, "compute_score"):
        result = engine.compute_score("cai", reply, "", fields)
        return result["score"], result["cai_error"]
    label = json.dumps({**fields, "chat": json.loads(fields["chat"])})
    result = engine.reward_func([f"Hi {reply}"], ["Hi"], [label])
    return result["rewards"].item(), result["extra_logs"]["cai_error"].item()


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("name", ENGINES)
def test_unknown_rewards_become_the_recent_mean(name: str) -> None:
    """A row without a kind, one that the reward does not know, and one that makes it fail."""
    engine = plugin(name)
    assert ask(engine, "a b") == (3.0, 0.0)
    assert ask(engine, "a b c d") == (5.0, 0.0)
    assert ask(engine, "a", "absent") == (4.0, 1.0)
    assert ask(engine, "who knows") == (4.0, 1.0)
    assert ask(engine, "boom") == (4.0, 1.0)
    assert ask(engine, "a b c d", None) == (4.0, 0.0), "a null kind: the rubric does not apply"
    assert ask(engine, "a b c") == (4.0, 0.0)


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers with the statuses of `script` in turn, then with rewards; records each request."""

    script: list[int] = []
    requests: list[tuple[str, str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.requests.append((self.path, self.headers["authorization"]))
        status = self.script.pop(0) if self.script else 200
        answer = {"rewards": [2.0], "scores": [0.9], "reasons": [None], "parts": {"pm": [2.0]}}
        body = json.dumps(answer | {"extra_logs": {"pm": [2.0]}}).encode()
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
        Scripted.script, Scripted.requests = [], []
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
    scripted: type[Scripted], name: str, statuses: list[int], tries: int, known: bool
) -> None:
    """A redirect is not followed: it would take the token along."""
    scripted.script = list(statuses)
    assert ask(plugin(name), "a") == ((2.0, 0.0) if known else (0.0, 1.0))
    assert len(scripted.requests) == tries
    assert {path for path, _ in scripted.requests} <= {"/score", "/get_reward"}


@pytest.mark.parametrize("name", ENGINES)
def test_no_proxy_sees_the_token(
    scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert ask(plugin(name), "a") == (2.0, 0.0)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("odd", ["hush\n", "hush\r", " hush", "hush\u00fc"])
def test_an_odd_token_is_neither_sent_nor_printed(
    scripted: type[Scripted],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    odd: str,
) -> None:
    monkeypatch.setenv("CAI_REWARD_TOKEN", odd)
    assert ask(plugin(name), "a")[1] == 1.0
    captured = capsys.readouterr()
    assert "CAI_REWARD_TOKEN" in captured.err
    assert "hush" not in captured.out + captured.err
    assert scripted.requests == []


@pytest.mark.parametrize("name", ENGINES)
def test_too_many_failures_are_said(
    scripted: type[Scripted], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """16 known and 4 unknown rewards are a fifth, which is allowed. One more is not.

    verl ends at an exception. OpenRLHF would swallow it: the line is printed there, once.
    """
    engine = plugin(name)
    for _ in range(16):
        assert ask(engine, "a") == (2.0, 0.0)
    scripted.script = [500] * 9
    for _ in range(4):
        assert ask(engine, "a") == (2.0, 1.0)
    line = "5 of the last 21 rewards are unknown (limit 20%): status 500"
    if name == "verl_reward":
        with pytest.raises(RuntimeError, match=re.escape(line)):
            ask(engine, "a")
    else:
        assert [ask(engine, "a") for _ in range(3)] == [(2.0, 1.0)] * 3
        assert capsys.readouterr().err.count("of the last") == 1
