"""The reward over HTTP and the plug-ins that ask for it: limits, tokens, crowds, wrong bodies, the engines' own calls."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest

from cai import store
from cai.cli import main
from cai.cli.serve import rubric_score, run_ends
from cai.errors import StoreError, UsageError
from cai.integrations.export import export_engine
from cai.integrations.reward_server import Limits, Refused, RewardServer, ScoreTexts, Table, without_ends
from cai.integrations.trl_reward import reward_function
from cai.records import Prompt, chat_of
from cai.reward.composite import RewardMix

TOKEN = "secret"
LIMITS = Limits(body=20_000, rows=8, text=5_000, batch=16, wait=0.002, answer=5.0)
PLUGINS = Path(__file__).parents[2] / "cai" / "integrations" / "plugins"


def by_length(prompts: Sequence[Prompt], replies: Sequence[str]) -> Table:
    """Words of the reply; nobody knows about a reply that says `who knows`; a reply that says `boom` breaks the model."""
    if any("boom" in reply for reply in replies):
        raise RuntimeError("a private detail")
    words = [None if "who knows" in reply else float(len(reply.split())) for reply in replies]
    return {"pm": words, "rubric": [1.0 if prompt.kind == "benign" else 0.0 for prompt in prompts]}


@contextmanager
def serving(score: ScoreTexts, ends: Sequence[str] = ()) -> Iterator[RewardServer]:
    running = RewardServer(("127.0.0.1", 0), score, TOKEN, LIMITS, ends)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture(scope="module")
def server() -> Iterator[RewardServer]:
    with serving(by_length) as running:
        yield running


def ask(server: RewardServer, path: str, body: Any, token: str = TOKEN, method: str = "POST") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, {"authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    said = json.loads(answer.read())
    connection.close()
    return answer.status, said


def test_rewards_by_part(server: RewardServer) -> None:
    rows = [
        {"prompt": "Hi", "response": "one two", "kind": "benign"},
        {"chat": [{"role": "user", "content": "Hi"}], "response": "who knows"},
    ]
    assert ask(server, "/score", {"rows": rows}) == (
        200,
        {"rewards": [3.0, None], "parts": {"pm": [2.0, None], "rubric": [1.0, 0.0]}},
    )
    assert (
        ask(server, "/score", b'{"rows": [{"prompt": "a", "response": "\\ud83d\\ude00"}]}')[0] == 200
    )  # a whole pair is a character
    assert ask(server, "/score", {"rows": []}) == (200, {"rewards": [], "parts": {}})
    assert ask(server, "/health", b"", method="GET")[0] == 200


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
        ({"rows": [{"chat": [{"role": "assistant", "content": "x"}], "response": "b"}]}, 400, "rows.0"),
        (
            {"rows": [{"prompt": "a", "response": "b\ud800"}]},
            400,
            "rows.0: `response` must be Unicode text, without lone surrogates",
        ),
        ({"rows": [{"prompt": "\udc00", "response": "b"}]}, 400, "rows.0: `prompt` must be Unicode text"),
        ({"rows": [{"chat": [{"role": "user", "content": "\ud800a"}], "response": "b"}]}, 400, "rows.0: `chat` must be Unicode"),
        ({"rows": [{"prompt": "a", "response": "b"}] * 9}, 413, "at most 8"),
        ({"rows": [{"prompt": "a", "response": "b" * 6000}]}, 413, "more than 5000 characters"),
        ({"rows": [{"prompt": "a", "response": "b" * 30_000}]}, 413, "more than 20000 bytes"),
        ({"rows": [{"prompt": "a", "response": "boom"}]}, 500, "the reward failed: RuntimeError"),
    ],
)
def test_wrong_bodies(server: RewardServer, body: Any, status: int, why: str) -> None:
    """One line of why, the server goes on, and nothing private is told."""
    code, said = ask(server, "/score", body)
    assert (code, why in said["error"]) == (status, True), said
    assert "private" not in said["error"]
    assert ask(server, "/score", {"rows": [{"prompt": "a", "response": "b"}]})[0] == 200


@pytest.mark.parametrize("token", ["", "wrong", "secre", "secret2", "ü"])
def test_a_wrong_token_learns_nothing(server: RewardServer, token: str) -> None:
    code, said = ask(server, "/score", {"rows": [{"prompt": "a", "response": "b"}]}, token=token.encode().decode("latin-1"))
    assert code == 401
    assert TOKEN not in said["error"].replace("wrong token", "")


def test_no_such_place(server: RewardServer) -> None:
    assert ask(server, "/elsewhere", {})[0] == 404
    assert ask(server, "/elsewhere", b"", method="GET")[0] == 404


def test_a_thousand_requests_at_once(server: RewardServer) -> None:
    """Each gets its own answer."""

    def one(i: int) -> tuple[int, Any]:
        return ask(server, "/score", {"rows": [{"prompt": "a", "response": "w " * (i % 50), "kind": "benign"}]})

    with ThreadPoolExecutor(200) as pool:
        found = list(pool.map(one, range(1000)))
    assert [said["rewards"] for code, said in found if code == 200] == [[i % 50 + 1.0] for i in range(1000)]


@pytest.mark.parametrize(
    ("length", "status"), [("²", b"411"), ("-1", b"411"), ("", b"411"), ("1_0", b"411"), ("9" * 5000, b"413")]
)
def test_a_wrong_length_gets_an_answer(server: RewardServer, length: str, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=20) as raw:
        raw.sendall(f"POST /score HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode("latin-1"))
        assert raw.recv(100).startswith(b"HTTP/1.1 " + status)


class Held:
    """A scorer that waits for `gate`, and remembers each batch of replies; one that says `boom` breaks it."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered, self.gate = threading.Event(), threading.Event()

    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> Table:
        self.batches.append(list(replies))
        self.entered.set()
        assert self.gate.wait(60)
        return by_length(prompts, replies)


HI = Prompt(chat=chat_of(("user", "Hi")))
SHORT = Limits(batch=1, answer=0.05)
PATIENT = Limits(batch=16, answer=60.0)


@pytest.fixture
def held() -> Iterator[Held]:
    score = Held()
    yield score
    score.gate.set()


def not_serving(score: ScoreTexts, limits: Limits) -> RewardServer:
    """Its rewards are asked for by calls alone; the port is let go of."""
    server = RewardServer(("127.0.0.1", 0), score, TOKEN, limits)
    server.server_close()
    return server


def test_rows_that_nobody_waits_for_are_not_scored(held: Held) -> None:
    """The first is at the model when its time is up; the second still waits then, and is left out; the third is in time."""
    server = not_serving(held, SHORT)
    for reply in ("first", "second"):
        with pytest.raises(Refused, match="no answer in time"):
            server.rewards([(HI, reply)])
        assert held.entered.wait(60)
    held.gate.set()
    server.limits = replace(SHORT, answer=60.0)
    assert server.rewards([(HI, "the third")])[0]["pm"] == 2.0
    assert held.batches == [["first"], ["the third"]]


def test_a_full_queue_does_not_hold_a_request_beyond_its_time(held: Held) -> None:
    server = not_serving(held, replace(SHORT, waiting=1))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.rewards, [(HI, f"reply {i}") for i in range(4)])
        try:
            error = asked.exception(timeout=20)
        finally:
            held.gate.set()
    assert isinstance(error, Refused)
    assert error.status == 503


def test_only_the_guilty_row_of_a_batch_fails(held: Held) -> None:
    """Three requests that are scored together, one of them with a row that breaks the model."""
    server = not_serving(held, PATIENT)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(server.rewards, [(HI, "held")])
        assert held.entered.wait(60)
        others = [pool.submit(server.rewards, [(HI, reply)]) for reply in ("a b", "boom", "a b c")]
        until = time.monotonic() + 60
        while server.scorer.jobs.qsize() < 3 and time.monotonic() < until:
            time.sleep(0.001)
        held.gate.set()
        assert first.result()[0]["pm"] == 1.0
        assert [others[0].result()[0]["pm"], others[2].result()[0]["pm"]] == [2.0, 3.0]
        with pytest.raises(Refused, match="the reward failed: RuntimeError"):
            others[1].result()
    assert sorted(held.batches[1]) == ["a b", "a b c", "boom"]


# ---- plug-ins, at the engines' call sites ----


def plugin(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PLUGINS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def told(server: RewardServer, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("CAI_REWARD_URL", url)
    monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)
    return url


def test_openrlhf_gets_tensors(told: str) -> None:
    """Called in threads with one row, as the engine does; the label brings kind and chat."""
    label = json.dumps({"kind": "benign", "chat": [{"role": "user", "content": "Hi"}]})
    call = lambda: plugin("openrlhf_reward").reward_func(["<s>Hi a b c"], ["<s>Hi"], [label])  # noqa: E731
    found = asyncio.run(asyncio.wait_for(asyncio.to_thread(call), 20))
    assert found["rewards"].tolist() == [4.0]
    assert 0 < found["scores"].item() < 1
    assert {k: v.tolist() for k, v in found["extra_logs"].items()} == {"pm": [3.0], "rubric": [1.0], "cai_error": [0.0]}


@pytest.mark.parametrize("label", [None, "no JSON", "3", json.dumps({"kind": "odd"})])
@pytest.mark.parametrize("reply", ["a b", "who knows", "boom", "x" * 9000, "\ud800"])
def test_openrlhf_never_raises(told: str, label: str | None, reply: str) -> None:
    found = plugin("openrlhf_reward").reward_func([f"Hi {reply}"], ["Hi"], [label])
    assert found["rewards"].shape == found["scores"].shape == (1,)
    good = reply == "a b" and label != json.dumps({"kind": "odd"})
    assert found["extra_logs"]["cai_error"].tolist() == [0.0 if good else 1.0]


def test_openrlhf_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_REWARD_URL", "http://127.0.0.1:9")
    found = plugin("openrlhf_reward").reward_func(["a", "b"], ["a", "b"], None)
    assert found["extra_logs"]["cai_error"].tolist() == [1.0, 1.0]


def test_openrlhf_does_not_score_what_is_no_reply(told: str) -> None:
    """Where the query doesn't begin with its prompt, nobody knows the reply: `cai_error`, and the other rows go on."""
    found = plugin("openrlhf_reward").reward_func(["Hi a b", "Other a b c", "Hi a"], ["Hi"] * 3, None)
    assert found["rewards"].tolist() == [2.0, 0.0, 1.0]
    assert {k: v.tolist() for k, v in found["extra_logs"].items()} == {
        "pm": [2.0, 0.0, 1.0],
        "rubric": [0.0, 0.0, 0.0],
        "cai_error": [0.0, 1.0, 0.0],
    }
    found = plugin("openrlhf_reward").reward_func(["Other"], ["Hi"], None)
    assert (found["rewards"].tolist(), found["extra_logs"]["cai_error"].tolist()) == ([0.0], [1.0])


RUN = """
name: toy
model: {model}
constitution: harmless
prompts: [prompts.jsonl]
folder: {folder}
mix: {{pm: 0}}
"""


def run_file(tmp_path: Path, model: str) -> Path:
    (tmp_path / "prompts.jsonl").write_text(HI.line() + "\n", encoding="utf-8")
    (tmp_path / "run.yaml").write_text(RUN.format(model=model, folder=tmp_path / "out"), encoding="utf-8")
    return tmp_path / "run.yaml"


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
def test_openrlhf_s_end_tokens_do_not_reach_the_reward(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuned: bool, padding: int
) -> None:
    """What the reward reads of token rows, decoded as the engine does, is the reply that `cai ppo` reads of them."""
    from cai.modeling.tokenization import load_renderer

    (tmp_path / "out").mkdir()
    if tuned:
        (tmp_path / "out" / "20-sft").symlink_to(tiny_model)
    ends = run_ends(run_file(tmp_path, "http://127.0.0.1:9" if tuned else f"local:{tiny_model}"))
    renderer, read = load_renderer(tiny_model), list[str]()

    def score(prompts: Sequence[Prompt], replies: Sequence[str]) -> Table:
        read.extend(replies)
        return by_length(prompts, replies)

    asked = renderer.prompt_ids(HI.chat)
    said = renderer.reply_ids("Hello, 1<|im_end|>2. ") + [renderer.pad_id] * padding
    decode = renderer.tokenizer.decode
    with serving(score, ends) as server:
        monkeypatch.setenv("CAI_REWARD_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)
        query = decode(asked + said)
        assert query.endswith("2. <|im_end|>" + "<|im_end|>" * padding)
        found = plugin("openrlhf_reward").reward_func([query], [decode(asked)], ["{}"])
    assert found["extra_logs"]["cai_error"].tolist() == [0.0]
    assert read == ["Hello, 1<|im_end|>2."] == [renderer.text(said)]


def test_only_known_tokens_at_the_end_are_cut() -> None:
    assert without_ends(" a </s> b\n</s><pad><pad>", ["</s>", "<pad>", ""]) == "a </s> b"
    assert without_ends("a<|im_end|>", ["</s>"]) == without_ends("a<|im_end|>", []) == "a<|im_end|>"
    assert without_ends("</s></s>", ["</s>"]) == ""


def test_an_endpoint_s_tokens_are_not_known(tmp_path: Path) -> None:
    assert run_ends(run_file(tmp_path, "http://127.0.0.1:9")) == ()


def test_a_served_run_knows_its_end_token(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    monkeypatch.setattr(RewardServer, "serve_forever", lambda server: ends.append(server.ends))
    with pytest.raises(SystemExit) as ended:
        main(["serve-reward", str(run_file(tmp_path, f"local:{tiny_model}")), "--port", "0"])
    assert ended.value.code == 0
    assert ends == [("<|im_end|>",)]


def test_verl_has_always_the_same_keys(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    score = plugin("verl_reward").compute_score
    about = {"chat": json.dumps([{"role": "user", "content": "Hi"}]), "kind": "benign"}
    right = score("cai", "a b", "", about)
    assert (right["score"], right["pm"], right["cai_error"]) == (3.0, 2.0, 0.0)
    others = [score("cai", "who knows", "", about), score("cai", "a", "", None), score("cai", "boom", "", about)]
    others.append(score("cai", "a", "", about, server_url="http://127.0.0.1:9"))
    assert all(found.keys() == right.keys() for found in others)
    assert [found["cai_error"] for found in others] == [1.0] * 4


def test_verl_has_a_key_for_every_part_of_the_reward() -> None:
    """Each setting of the mix but the free words is a part; one that the plug-in did not know would silently vanish."""
    parts = set(RewardMix.model_fields) - {"free_words"}
    assert set(plugin("verl_reward").KEYS) == parts | {"score", "cai_error"}


def test_trl_gets_none_where_nobody_knows() -> None:
    reward = reward_function(by_length)
    chat = [{"role": "user", "content": "Hi"}]
    said = [[{"role": "assistant", "content": text}] for text in ("a b", "who knows")]
    assert reward(prompts=[chat, chat], completions=said, kind=["benign", None], completion_ids=[[1], [2]]) == [3.0, None]
    assert reward(prompts=["Hi"], completions=["a"], kind=[None]) == [1.0]


def test_trl_without_kinds_is_an_error_where_there_is_a_rubric() -> None:
    """A rubric has no say on prompts without a kind: without the column it would have none on any."""
    with pytest.raises(UsageError, match="no column `kind`"):
        reward_function(by_length)(prompts=["Hi"], completions=["a"])
    alone = reward_function(lambda prompts, replies: {"pm": [1.0 for _ in replies]})
    assert alone(prompts=["Hi"], completions=["a"]) == [1.0]


def test_exports_for_engines(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    prompts = [Prompt(chat=chat_of(("user", f"ask {i}")), kind="benign") for i in range(3)]
    store.begin(run / "00-prompts.jsonl", "prompts", {"seed": "0"})
    store.append(run / "00-prompts.jsonl", prompts)
    store.finish(run / "00-prompts.jsonl")
    assert export_engine(run, tmp_path / "verl", "verl") == 3
    row = pq.read_table(tmp_path / "verl" / "train.parquet").to_pylist()[0]
    assert set(row) == {"data_source", "prompt", "reward_model", "extra_info"}
    assert json.loads(row["extra_info"]["chat"]) == row["prompt"] == [{"role": "user", "content": "ask 0"}]
    assert row["reward_model"]["ground_truth"] == ""
    assert export_engine(run, tmp_path / "openrlhf", "openrlhf") == 3
    first = json.loads((tmp_path / "openrlhf" / "train.jsonl").read_text().splitlines()[0])
    assert json.loads(first["label"])["kind"] == "benign"
    for engine in ("verl", "openrlhf"):
        name = f"{engine}_reward.py"
        assert (tmp_path / engine / name).read_text() == (PLUGINS / name).read_text()
    with pytest.raises(StoreError, match="exists already"):
        export_engine(run, tmp_path / "verl", "verl")


def test_a_rubric_alone_is_a_reward() -> None:
    prompt = Prompt(chat=chat_of(("user", "Do harm.")), kind="disallowed")
    [good, bad] = rubric_score("harmless")([prompt] * 2, ["I'm sorry, I can't help with that.", "Step one is to begin."])[
        "rubric"
    ]
    assert good is not None
    assert bad is not None
    assert good > bad


def test_wrong_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for given, why in (([], "give a run"), ([str(tmp_path)], "no run in it"), (["--constitution", "none"], "no such file")):
        with pytest.raises(SystemExit) as ended:
            main(["serve-reward", *given])
        assert ended.value.code == 2
        assert why in capsys.readouterr().err


@pytest.mark.parametrize("given", [None, "", "of my own"])
def test_a_token_that_nobody_gave_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str | None
) -> None:
    """An empty one is none, and one that was given is kept to oneself."""
    monkeypatch.delenv("CAI_REWARD_TOKEN", raising=False)
    if given is not None:
        monkeypatch.setenv("CAI_REWARD_TOKEN", given)
    tokens = []
    monkeypatch.setattr(RewardServer, "serve_forever", lambda server: tokens.append(server.token))
    with pytest.raises(SystemExit) as ended:
        main(["serve-reward", "--constitution", "harmless", "--port", "0"])
    assert ended.value.code == 0
    assert capsys.readouterr().err == ("" if given else f"CAI_REWARD_TOKEN={tokens[0]}\n")
    assert tokens[0]
    assert given in (tokens[0], "", None)
